"""What the ranks of one launch do for the tests of ``ZeroOptimizer``, beside torch's own."""

import copy
import gc
import pickle
import warnings

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from companion.collectives.data_parallel import DataParallel
from companion.collectives.zero import ZeroOptimizer
from tests.collectives.ranks_training import Branches, backward, batch, message, net

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
}
SMALL = 8 * 40  # bytes: several buckets, cut inside parameters
STEPS = 4


def zero_cases(rank, world_size):
    torch.set_num_threads(1)
    steps = {
        (name, stage): trained(rank, world_size, name, stage)
        for name in OPTIMIZERS
        for stage in (1, 2)
    }
    cases = {
        "steps": steps,
        "peer": {name: peer(rank, world_size, name) for name in ("sgd", "adam", "adamw")},
        "groups": {stage: groups(rank, world_size, stage) for stage in (1, 2)},
        "skipped": {stage: skipped(rank, stage) for stage in (1, 2)},
        "after_data_parallel": after_data_parallel(rank, world_size),
        "accumulated": accumulated(rank, world_size),
        "state": state(rank, world_size),
        "memory": {stage: memory(rank, stage) for stage in (1, 2)},
        "mixed": mixed(rank, world_size),
        "live": live_gradients(rank),
        "start": start(rank),
        "errors": errors(rank),
    }
    return pickle.dumps(cases)  # tensors by value


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def part_of(rank, world_size, step=0):
    x, y = batch(world_size)
    x = x * (1 + step)
    return x[4 * rank : 4 * rank + 4], y[4 * rank : 4 * rank + 4]


def plain(world_size, name, steps=STEPS):
    """The plain optimizer in one process with the whole batch."""
    optimizer_class, options = OPTIMIZERS[name]
    module = net()
    optimizer = optimizer_class(module.parameters(), **options)
    x, y = batch(world_size)
    for step in range(steps):
        optimizer.zero_grad()
        backward(module, x * (1 + step), y)
        optimizer.step()
    return module, optimizer


def run(module, optimizer, rank, world_size, steps):
    for step in steps:
        optimizer.zero_grad()
        backward(module, *part_of(rank, world_size, step))
        optimizer.step()


def sharded(name, stage, module, **settings):
    optimizer_class, options = OPTIMIZERS[name]
    settings = {"bucket_bytes": SMALL} | options | settings
    return ZeroOptimizer(optimizer_class, module.parameters(), stage=stage, **settings)


def trained(rank, world_size, name, stage):
    module = net(seed=rank)
    optimizer = sharded(name, stage, module)
    run(module, optimizer, rank, world_size, range(STEPS))
    expected, _ = plain(world_size, name)
    return {"ours": weights(module), "plain": weights(expected)}


def peer(rank, world_size, name):
    """torch's DDP with its ZeroRedundancyOptimizer."""
    # Here, because importing it warns of an old compiler, and in a test a warning is an error.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    optimizer_class, options = OPTIMIZERS[name]
    model = DistributedDataParallel(net())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class, **options)
    run(model, optimizer, rank, world_size, range(STEPS))
    return weights(model.module)


def groups(rank, world_size, stage):
    """Two groups with settings of their own, and a scheduler that halves their rates."""

    def of(module):
        return [
            {"params": [module[0].weight, module[5].bias], "lr": 0.05, "weight_decay": 0.1},
            {"params": [module[2].weight, module[2].bias, module[0].bias, module[5].weight]},
        ]

    module, alone = net(), net()
    ours = ZeroOptimizer(torch.optim.AdamW, of(module), stage=stage, lr=0.01, bucket_bytes=SMALL)
    theirs = torch.optim.AdamW(of(alone), lr=0.01)
    for optimizer, model in ((ours, module), (theirs, alone)):
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        for step in range(STEPS):
            optimizer.zero_grad()
            x, y = batch(world_size)
            if optimizer is ours:
                x, y = part_of(rank, world_size, step)
                backward(model, x, y)
            else:
                backward(model, x * (1 + step), y)
            optimizer.step()
            schedule.step()
    rates = [group["lr"] for group in ours.param_groups]
    return {"ours": weights(module), "plain": weights(alone), "rates": rates}


def skipped(rank, stage):
    """Weight decay must not touch c, which no rank uses, nor a while no rank uses it.

    A scalar and an empty parameter are there too: smaller than the number of parts.
    """
    module, alone = Branches(), Branches()
    for model in (module, alone):
        model.scalar = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        model.empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    options = {"lr": 0.1, "weight_decay": 0.1}
    ours = ZeroOptimizer(torch.optim.AdamW, module.parameters(), stage=stage, **options)
    theirs = torch.optim.AdamW(alone.parameters(), **options)
    x = torch.ones(2, 3, dtype=torch.float64)
    size = distributed.get_world_size()
    for names in ("b", "ab", "b"):
        ours.zero_grad()
        (module(x, names if rank == 0 else "b") * module.scalar).backward()
        ours.step()
        theirs.zero_grad()
        total = sum(alone(x, names if r == 0 else "b") * alone.scalar for r in range(size))
        (total / size).backward()
        theirs.step()
    return {"ours": weights(module), "plain": weights(alone)}


def after_data_parallel(rank, world_size):
    module = net(seed=rank)
    model = DataParallel(module, bucket_bytes=200, first_bucket_bytes=40)
    run(model, sharded("adam", 1, module), rank, world_size, range(STEPS))
    second = DataParallel(net())
    optimizer = sharded("adam", 2, second.module)
    refused = message(lambda: run(second, optimizer, rank, world_size, range(1)))
    return {"ours": weights(module), "stage 2": refused}


def accumulated(rank, world_size):
    """Two backwards before a step add up; zero_grad and step drop what was there."""
    module, alone = net(), net()
    ours = sharded("sgd", 2, module)
    theirs = torch.optim.SGD(alone.parameters(), **OPTIMIZERS["sgd"][1])
    x, y = batch(world_size)
    backward(module, *part_of(rank, world_size, 7))
    ours.zero_grad()
    for _ in range(2):
        theirs.zero_grad()
        for step in range(2):
            backward(module, *part_of(rank, world_size, step))
            backward(alone, x * (1 + step), y)
        ours.step()
        theirs.step()
    before = weights(module)
    ours.step()  # no gradients: nothing happens
    unchanged = all(torch.equal(before[n], w) for n, w in weights(module).items())
    return {"ours": before, "plain": weights(alone), "unchanged": unchanged}


def state(rank, world_size):
    """The gathered state is the plain optimizer's, and each continues from the other's."""
    results = {}
    for name in ("sgd", "adamw", "rmsprop"):
        optimizer_class, options = OPTIMIZERS[name]
        alone, theirs = plain(world_size, name)
        module = net()
        ours = sharded(name, 1, module)
        run(module, ours, rank, world_size, range(STEPS))
        saved = copy.deepcopy(ours.state_dict())

        resumed = net()
        resumed.load_state_dict(module.state_dict())
        again = sharded(name, 2, resumed, bucket_bytes=10**9)  # other parts, another stage
        again.load_state_dict(saved)
        same = copy.deepcopy(module)
        twin = sharded(name, 1, same)
        twin.load_state_dict(saved)
        into_plain = net()
        into_plain.load_state_dict(module.state_dict())
        other = optimizer_class(into_plain.parameters(), **options)
        other.load_state_dict(copy.deepcopy(saved))  # it would go on counting in ours
        x, y = batch(world_size)
        for optimizer, model in ((theirs, alone), (other, into_plain)):
            optimizer.zero_grad()
            backward(model, x * (1 + STEPS), y)
            optimizer.step()
        for optimizer, model in ((ours, module), (again, resumed), (twin, same)):
            run(model, optimizer, rank, world_size, [STEPS])
        plain_state = plain(world_size, name)[1].state_dict()
        results[name] = {
            "ours": saved,
            "plain": plain_state,
            "weights": [weights(m) for m in (module, same, resumed, into_plain, alone)],
        }
    return results


def live_bytes():
    """Bytes of the storages of all tensors that are alive, and of their gradients."""
    gc.collect()
    storages = {}
    with warnings.catch_warnings():  # looking at an object may wake a deprecation
        warnings.simplefilter("ignore")
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


SIZES = (131, 67)  # 131·67 + 67 weights: no multiple of 2 or 3


def memory(rank, stage):
    """Tensors alive on this rank after a backward, and after a step, above those from before."""
    x = torch.ones(2, SIZES[0])
    before = live_bytes()
    module = nn.Linear(*SIZES)
    optimizer = ZeroOptimizer(torch.optim.Adam, module.parameters(), stage=stage, lr=0.1)
    module(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    module(x).sum().backward()
    after_backward, counted = live_bytes() - before, optimizer.memory()
    optimizer.step()
    optimizer.zero_grad()
    return after_backward, tuple(counted), live_bytes() - before


def mixed(rank, world_size):
    """bf16 weights with an fp32 copy: against one process that does the same by hand."""
    x, y = (t.bfloat16() for t in batch(world_size))
    own = slice(4 * rank, 4 * rank + 4)
    before = live_bytes()
    module = net(dtype=torch.bfloat16)
    settings = {"master_dtype": torch.float32, "bucket_bytes": SMALL}
    optimizer = sharded("adam", 1, module, **settings)
    history = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        backward(module, x[own], y[own])
        history.append([p.grad.clone() for p in module.parameters()])
        optimizer.step()
    saved = optimizer.state_dict()
    again = sharded("adam", 2, net(dtype=torch.bfloat16), **settings)
    again.load_state_dict(saved)
    return {
        "weights": [p.detach().clone() for p in module.parameters()],
        "gradients": history,
        "memory": tuple(optimizer.memory()),
        "before": before,
        "master": [saved["state"][i]["master"] for i in range(len(saved["state"]))],
        "again": [s["master"] for s in again.state_dict()["state"].values()],
    }


def live_gradients(rank):
    """The most full gradients alive when another one arrives, in stage 2: none."""
    module = net()
    optimizer = sharded("adam", 2, module)
    alive = []

    def count(_):
        alive.append(sum(p.grad is not None for p in module.parameters()))

    for parameter in module.parameters():
        parameter.register_hook(count)
    backward(module, *part_of(rank, distributed.get_world_size()))
    return alive, optimizer.memory().gradients


def start(rank):
    module = net(seed=rank)
    optimizer = sharded("adam", 1, module)
    del optimizer
    return weights(module)


def errors(rank):
    def of(optimizer_class, parameter=None, **options):
        parameter = nn.Parameter(torch.ones(4, 6)) if parameter is None else parameter
        return message(lambda: ZeroOptimizer(optimizer_class, [parameter], **options))

    sparse = nn.Embedding(5, 2, sparse=True)
    of_sparse = ZeroOptimizer(torch.optim.SGD, sparse.parameters(), lr=0.1)
    sparse(torch.tensor([1])).sum().backward()
    module = net()
    optimizer = sharded("adam", 1, module)
    state = optimizer.state_dict()
    state["param_groups"][0]["params"] = [0]
    bad_shape = optimizer.state_dict()
    bad_shape["state"] = {0: {"exp_avg": torch.zeros(3, 3)}}
    result = {
        "closure": message(lambda: optimizer.step(lambda: 0.0)),
        "group": message(lambda: optimizer.add_param_group({"params": [nn.Parameter()]})),
        "load": message(lambda: optimizer.load_state_dict(state)),
        "load shape": message(lambda: optimizer.load_state_dict(bad_shape)),
        "sparse": message(of_sparse.step),
        "stage": of(torch.optim.SGD, stage=3, lr=0.1),
        "ranks": of(torch.optim.SGD, nn.Parameter(torch.ones(3 + (rank == 2))), lr=0.1),
        "none": message(lambda: ZeroOptimizer(torch.optim.SGD, [], lr=0.1)),
    }
    for name in ("LBFGS", "Adafactor", "Muon", "SparseAdam"):
        result[name] = of(getattr(torch.optim, name))
    module.float()
    return result | {"moved": message(optimizer.step)}
