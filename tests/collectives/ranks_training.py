"""What the ranks of one launch do for the tests of ``DataParallel``, beside torch's own DDP."""

import gc
import pickle
import threading
import time
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from companion.collectives.data_parallel import DataParallel
from companion.collectives.ring import ring_all_reduce
from companion.collectives.study.delayed import delayed
from companion.collectives.study.overlap import measure_overlap
from companion.collectives.tree import tree_all_reduce

LOST_AFTER_S = 4
SMALL = {"bucket_bytes": 200, "first_bucket_bytes": 40}  # many buckets, of uneven sizes


def data_parallel_cases(rank, world_size):
    torch.set_num_threads(1)
    cases = {
        "gradients": gradients(rank, world_size),
        "unused": unused(rank),
        "accumulated": accumulated(rank, world_size),
        "start": start(rank),
        "order": order(rank),
        "leftover": leftover(rank),
        "dtypes": dtypes(rank),
        "frozen": frozen(rank),
        "reduces": {name: other_reduce(rank, r) for name, r in REDUCES.items()},
        "spans": spans(rank),
        "errors": errors(rank),
        "gone": gone(rank),
        "half_way": half_way(rank),
        "lost": lost(rank),
    }
    return pickle.dumps(cases)  # tensors by value


def net(seed=0, dtype=torch.float64):
    """Odd sizes, a strided weight, a module used twice."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twice = nn.Linear(7, 7)
        layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), twice, nn.Tanh(), twice, nn.Linear(7, 3))
    layers[0].weight.data = layers[0].weight.data.t().contiguous().t()
    return layers.to(dtype)


def batch(world_size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4 * world_size, 5, dtype=torch.float64, generator=generator)
    y = torch.randn(4 * world_size, 3, dtype=torch.float64, generator=generator)
    return x.to(dtype), y.to(dtype)


def backward(model, x, y):
    F.mse_loss(model(x), y).backward()


def grads(module):
    return {n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def gradients(rank, world_size):
    """Two steps' gradients: ours, DDP's, and those of one process with the whole batch."""
    x, y = batch(world_size)
    part = slice(4 * rank, 4 * rank + 4)
    ours, theirs, alone = DataParallel(net(rank), **SMALL), DistributedDataParallel(net()), net()
    for _ in range(2):
        for model in (ours, theirs, alone):
            model.zero_grad()
        backward(ours, x[part], y[part])
        backward(theirs, x[part], y[part])
        backward(alone, x, y)
    return {
        "ours": grads(ours.module),
        "ddp": grads(theirs.module),
        "alone": grads(alone),
        "buckets": ours.bucket_sizes_bytes,
    }


class Branches(nn.Module):
    """Each call says which layers it uses, and in which order."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.ModuleDict({n: nn.Linear(3, 3, dtype=torch.float64) for n in "abc"})

    def forward(self, x, names):
        return sum(self.layers[name](x * (i + 1)).sum() for i, name in enumerate(names))


def unused(rank):
    """Rank 0 uses a, the others b, nobody c."""
    x = torch.full((2, 3), rank + 1.0, dtype=torch.float64)
    ours = DataParallel(Branches(), **SMALL)
    theirs = DistributedDataParallel(Branches(), find_unused_parameters=True)
    for model in (ours, theirs):
        model(x, "a" if rank == 0 else "b").backward()
    return {"ours": grads(ours.module), "ddp": grads(theirs.module)}


def accumulated(rank, world_size):
    """Two parts without and one with averaging, like one backward over all three."""
    x, y = batch(3 * world_size)
    model, local = DataParallel(net(), **SMALL), net()
    rows = torch.arange(12 * world_size).view(world_size, 3, 4)[rank]
    with model.no_sync():
        for part in rows[:2]:
            backward(model, x[part], y[part])
            backward(local, x[part], y[part])
    before = grads(model.module)
    backward(model, x[rows[2]], y[rows[2]])
    total = grads(model.module)
    model.zero_grad()
    backward(model, x[rows[0]], y[rows[0]])  # no_sync is over
    return {
        "before": before,
        "local": grads(local),
        "sum": total,
        "after": grads(model.module),
    }


def start(rank):
    """Parameters and buffers of every dtype become those of rank 0."""
    module = net(seed=rank)
    module.register_buffer("mean", torch.full((3,), float(rank)))
    module.register_buffer("count", torch.tensor(rank))
    module.register_buffer("flags", torch.tensor([rank == 0, rank == 1]))
    module.register_buffer("strided", torch.full((3, 4), float(rank)).t()[::2])
    model = DataParallel(module)
    first = {name: value.clone() for name, value in model.module.state_dict().items()}
    module.mean.fill_(rank + 5.0)
    model.broadcast_buffers()
    return first | {"later": module.mean}


def order(rank):
    """Buckets fill in another order on every rank; each holds one parameter."""
    model = DataParallel(Branches(), bucket_bytes=1, first_bucket_bytes=1)
    x = torch.ones(2, 3, dtype=torch.float64)
    names = "abc" if rank == 0 else "cba"
    model(x, names).backward()
    return grads(model.module)


def leftover(rank):
    """What no_sync added up for a layer is averaged by a backward that does not reach it."""
    model = DataParallel(Branches(), **SMALL)
    x = torch.full((2, 3), rank + 1.0, dtype=torch.float64)
    with model.no_sync():
        model(x, "a").backward()
    model(x, "b").backward()
    return grads(model.module)


def dtypes(rank):
    module = nn.ParameterList(
        torch.zeros(3, dtype=dtype)
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float32)
    )
    model = DataParallel(module, bucket_bytes=1000, first_bucket_bytes=1000)
    sum(p.sum().double() * (rank + 1) for p in module).backward()
    return [p.grad for p in module] + [len(model.bucket_sizes_bytes)]


def frozen(rank):
    module = net()
    module[0].weight.requires_grad_(False)
    model = DataParallel(module, **SMALL)
    x, y = batch(1)
    module[0].bias.requires_grad_(False)  # later is allowed too
    backward(model, x, y)
    return grads(module)


def gloo(tensor, *, op, group):
    assert op == "mean"
    distributed.all_reduce(tensor, group=group)
    tensor /= distributed.get_world_size(group)


REDUCES = {"tree": tree_all_reduce, "gloo": gloo}


def other_reduce(rank, reduce):
    model = DataParallel(net(), reduce=reduce, **SMALL)
    x, y = batch(1)
    backward(model, x * (rank + 1), y)
    return grads(model.module)


class SlowLinear(nn.Module):
    """Its backward takes a known time, whatever else the machine does."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)

    def forward(self, x):
        return _Slow.apply(self.linear(x))


class _Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(LAYER_S)
        return gradient


LAYER_S = 0.03


def spans(rank):
    """Three buckets of one layer each, every one 0.03 s to compute and at least 0.01 s to send."""
    module = nn.Sequential(*(SlowLinear(4) for _ in range(3)))
    slow = delayed(ring_all_reduce, alpha_s=0.01)
    model = DataParallel(module, reduce=slow, bucket_bytes=1, first_bucket_bytes=1)
    model(torch.ones(2, 4)).sum().backward()
    return [tuple(span) for span in model.spans]


def overlap(rank, world_size):
    """Eight layers and a link that needs as long for each as backward does."""
    module = nn.Sequential(*(SlowLinear(8) for _ in range(8)))
    return measure_overlap(
        module,
        torch.ones(2, 8),
        bucket_bytes=1,
        beta_s_per_byte=LAYER_S / (8 * 8 * 4),
        repeats=2,
    )


def message(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def errors(rank):
    shape = nn.Linear(3, 4 + (rank == 1))
    no_bias = nn.Linear(3, 4, bias=rank != 1)
    sparse = DataParallel(nn.Embedding(5, 2, sparse=True))
    late = nn.Linear(2, 2)
    late.bias.requires_grad_(False)
    model = DataParallel(late)
    late.bias.requires_grad_(True)
    return {
        "shape": message(lambda: DataParallel(shape)),
        "missing": message(lambda: DataParallel(no_bias)),
        "nothing": message(lambda: DataParallel(nn.Tanh())),
        "bucket_bytes": message(lambda: DataParallel(nn.Linear(1, 1), bucket_bytes=0)),
        "sparse": message(lambda: sparse(torch.tensor([1])).sum().backward()),
        "unfrozen": message(lambda: model(torch.ones(2, 2))),
        "raises": message(lambda: raising(rank)),
    }


def raising(rank):
    """The all-reduce fails on every rank: backward says so, once, and can be called again."""
    calls = []

    def fails(tensor, *, op, group):
        calls.append(tensor.numel())
        if len(calls) == 1:
            raise OSError("cable cut")

    model = DataParallel(net(), reduce=fails, **SMALL)
    x, y = batch(1)
    try:
        backward(model, x, y)
    except OSError as error:
        assert len(calls) == 1
        backward(model, x, y)
        assert len(calls) == 1 + len(model.bucket_sizes_bytes)
        raise error


def gone(rank):
    """Without its DataParallel a module is as it was: nothing is sent, no thread is left."""
    module = net()
    model = DataParallel(module, **SMALL)
    x, y = batch(1)
    backward(model, x, y)
    del model
    gc.collect()
    end_s = time.monotonic() + 5
    while bucket_threads() and time.monotonic() < end_s:
        time.sleep(0.01)
    module.zero_grad()
    if rank == 0:
        backward(module, x, y)
    return bucket_threads(), module[0].bias.grad is not None


def bucket_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("companion-buckets")]


class Breaks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError("in the middle")


def half_way(rank):
    """A backward that stopped half-way cannot be followed by another one."""
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    model = DataParallel(nn.Sequential(first, last))
    hidden = Breaks.apply(first(torch.ones(1, 2)))
    broken = message(lambda: last(hidden).sum().backward())
    return broken, message(lambda: model(torch.ones(1, 2)).sum().backward())


def lost(rank):
    """The last rank fails in its forward: the others hear of it when the group's time is up."""
    group = distributed.new_group(timeout=timedelta(seconds=LOST_AFTER_S))
    model = DataParallel(net(), group=group, **SMALL)
    x, y = batch(1)
    distributed.barrier()
    if rank == distributed.get_world_size() - 1:
        time.sleep(LOST_AFTER_S + 1)
        return None
    start_s = time.monotonic()
    return message(lambda: backward(model, x, y)), time.monotonic() - start_s
