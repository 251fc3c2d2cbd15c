"""What four ranks of one launch do: mismatches, layouts, asynchronous calls, a rank that sleeps."""

import threading
import time
from datetime import timedelta

import torch
from torch import distributed

from companion.collectives import check
from companion.collectives.halving_doubling import halving_doubling_all_reduce
from companion.collectives.hierarchical import hierarchical_all_reduce
from companion.collectives.parameter_server import parameter_server_all_reduce
from companion.collectives.ring import ring_all_reduce
from companion.collectives.ring_halves import ring_all_gather, ring_reduce_scatter
from companion.collectives.tree import tree_all_reduce

ALL = {
    "ring": ring_all_reduce,
    "tree": tree_all_reduce,
    "halving_doubling": halving_doubling_all_reduce,
    "parameter_server": parameter_server_all_reduce,
    "hierarchical": hierarchical_all_reduce,
}


def everything(rank, world_size):
    torch.set_num_threads(1)
    return {
        "mismatch": mismatches(rank),
        "layouts": layouts(rank),
        "trap": gloo_on_every_second_element(rank),
        "by_hand": by_hand(rank),
        "gather": gathers(rank),
        "async": asynchronous(rank),
        "environment": environment(rank),
        "check": checks(rank),
        "asleep": one_asleep(rank),
    }


def error_of(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


# Mismatches: what each rank calls, by rank


def a_call(rank, *, odd=(), usual=None, other=None, algorithm=None):
    """The usual tensor and settings, or on the odd ranks the other ones."""
    settings = dict(usual if rank not in odd else other)
    run = settings.pop("run", algorithm or ring_all_reduce)
    return run(settings.pop("tensor"), **settings)


def mismatches(rank):
    x = torch.ones
    cases = {
        "shape": {
            "odd": [2],
            "usual": {"tensor": x(3, 5)},
            "other": {"tensor": x(5, 3)},
        },
        "dtype": {
            "odd": [0],
            "usual": {"tensor": x(7)},
            "other": {"tensor": x(7, dtype=torch.float16)},
        },
        "op": {
            "odd": [3],
            "usual": {"tensor": x(7), "op": "sum"},
            "other": {"tensor": x(7), "op": "max"},
        },
        "algorithm": {
            "odd": [1],
            "usual": {"tensor": x(7)},
            "other": {"tensor": x(7), "run": tree_all_reduce},
        },
        "order": {
            "odd": [1],
            "usual": {"tensor": x(7)},
            "other": {"tensor": x(7), "run": lambda t: ring_all_gather(t)},
        },
        "chunk_bytes": {
            "odd": [2],
            "usual": {"tensor": x(7)},
            "other": {"tensor": x(7), "chunk_bytes": 64},
        },
        "tie": {
            "odd": [2, 3],
            "usual": {"tensor": x(7)},
            "other": {"tensor": x(8)},
        },
        "two": {
            "odd": [1],
            "usual": {"tensor": x(7)},
            "other": {"tensor": x(8), "op": "min"},
        },
        "no tensor": {
            "odd": [2],
            "usual": {"tensor": x(2)},
            "other": {"tensor": [1.0, 1.0]},
        },
        "expanded": {
            "odd": [2],
            "usual": {"tensor": x(2)},
            "other": {"tensor": x(1).expand(2)},
        },
        "unknown op": {
            "odd": [0],
            "usual": {"tensor": x(2)},
            "other": {"tensor": x(2), "op": "avg"},
        },
        "mean of integers": {"usual": {"tensor": torch.ones(3, dtype=torch.int64), "op": "mean"}},
        "no segments": {"usual": {"tensor": x(2), "chunk_bytes": 0}},
        "hosts": {"usual": {"tensor": x(2), "ranks_per_host": 3, "run": hierarchical_all_reduce}},
        "many dims": {
            "odd": [1],
            "usual": {"tensor": x((1,) * 50 + (2, 3))},
            "other": {"tensor": x((1,) * 50 + (3, 2))},
        },
        "trailing": {
            "odd": [1],
            "usual": {"tensor": x(4, 3), "run": ring_all_gather},
            "other": {"tensor": x(5, 2), "run": ring_all_gather},
        },
    }
    result = {}
    for name, case in cases.items():
        error = error_of(lambda case=case: a_call(rank, **case))
        after = ring_all_reduce(torch.tensor([rank, 1]))
        result[name] = (error, after.tolist())
    return result


# Layouts


def strided(rank):
    """Tensors that are no plain run of memory, with the values that they hold."""
    base = torch.arange(60, dtype=torch.float64).reshape(3, 4, 5) * (rank + 1)
    complex_ = torch.view_as_complex(base[..., :2].contiguous())
    return {
        "transposed": base[0].clone().t(),
        "every second": base.clone().view(-1)[::2],
        "channels last": base.clone()[None].contiguous(memory_format=torch.channels_last),
        "inner slice": base.clone()[:, 1:3, 1:4],
        "conjugate": complex_.clone().conj(),
        "negated": complex_.clone().conj().imag,
        "scalar": base[1, 2, 3].clone(),
        "parameter": torch.nn.Parameter(base[0].clone()),
        "column of zero length": base.clone()[:, :0],
    }


def layouts(rank):
    """The names of all tensors that came out wrong, or that were not written in place."""
    wrong = []
    for name, algorithm in ALL.items():
        by_rank = [strided(r).values() for r in range(4)]
        expected = [sum(values) for values in zip(*by_rank, strict=True)]
        for (layout, tensor), total in zip(strided(rank).items(), expected, strict=True):
            strides, address = tensor.stride(), tensor.data_ptr()
            algorithm(tensor)
            same_memory = (tensor.stride(), tensor.data_ptr()) == (strides, address)
            if not same_memory or not torch.equal(tensor.detach(), total.detach()):
                wrong.append((name, layout))
    around = torch.full((4, 6), 7.0)
    ring_all_reduce(around[:, 1:3])
    if around[:, [0, 3, 4, 5]].unique().tolist() != [7.0] or around[0, 1] != 28.0:
        wrong.append("memory around the slice")
    return wrong


def gloo_on_every_second_element(rank):
    """gloo's complaint and answer, and ours, for [1, 3, 5] out of [1, 2, 3, 4, 5, 6]."""
    theirs, ours = torch.arange(1.0, 7.0)[::2], torch.arange(1.0, 7.0)[::2]
    complaint = error_of(lambda: distributed.all_reduce(theirs))
    ring_all_reduce(ours)
    return complaint, theirs.tolist(), ours.tolist()


# Numbers by hand


def by_hand(rank):
    nan, tiny = float("nan"), torch.finfo(torch.float32).smallest_normal * 2.0**-23
    result = {}
    for name, algorithm in ALL.items():
        largest = torch.tensor([rank, nan if rank == 2 else 9.0, -rank])
        result[name, "max"] = algorithm(largest, op="max").tolist()
        least = torch.full((2,), tiny)
        result[name, "mean"] = (algorithm(least, op="mean") / tiny).tolist()
        flags = torch.tensor([rank == 3, False, True])
        result[name, "bool"] = algorithm(flags, op="max").tolist()
        wrapped = torch.full((1,), 100 if rank < 3 else 0, dtype=torch.uint8)
        result[name, "uint8"] = algorithm(wrapped).tolist()
        turned = torch.full((1,), 1j)
        result[name, "complex"] = algorithm(turned, op="prod").tolist()
    result["no bool sum"] = error_of(lambda: ring_all_reduce(torch.ones(2, dtype=torch.bool)))
    result["no complex max"] = error_of(lambda: ring_all_reduce(torch.ones(2) * 1j, op="max"))
    result["mean of a chunk"] = ring_reduce_scatter(torch.arange(6.0) * rank, op="mean").tolist()
    return result


def gathers(rank):
    rows = torch.full((rank, 2), rank, dtype=torch.int16)  # rank 0 brings none
    flags = torch.tensor([rank == 1])
    return {
        "rows": ring_all_gather(rows).tolist(),
        "flags": ring_all_gather(flags).tolist(),
        "strided": ring_all_gather(torch.arange(4)[rank::2]).tolist(),
        "scalar": error_of(lambda: ring_all_gather(torch.tensor(1.0))),
    }


# Asynchronous calls


def our_threads():
    return [t for t in threading.enumerate() if t.name == "companion-collectives"]


def asynchronous(rank):
    tensors = [torch.full((10 * n,), float(rank + n)) for n in range(6)]
    handles = [ring_all_reduce(t, async_op=True) for t in tensors]
    between = ring_all_reduce(torch.tensor([rank]))  # waits for its turn
    done = all(handle.is_completed() for handle in handles)
    waited = [handle.wait() is tensor for handle, tensor in zip(handles, tensors, strict=True)]
    odd = ring_all_reduce(torch.ones(3 if rank else 4), async_op=True)
    errors = [error_of(odd.wait), error_of(odd.wait)]
    count = len(our_threads())
    deadline = time.monotonic() + 5
    while our_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return {
        "values": [t.unique().tolist() for t in tensors],
        "between": between.tolist(),
        "done": done,
        "waited": waited,
        "errors": errors,
        "threads": (count, len(our_threads())),
    }


def environment(rank):
    """Whether LOCAL_WORLD_SIZE decides about the hosts."""
    import os

    os.environ["LOCAL_WORLD_SIZE"] = "3"
    refused = error_of(lambda: hierarchical_all_reduce(torch.ones(2)))
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    total = hierarchical_all_reduce(torch.ones(2)).tolist()
    del os.environ["LOCAL_WORLD_SIZE"]
    return refused, total


def checks(rank):
    """What the recipe says about algorithms that are right, off by one bit, and far off."""

    def one_bit(tensor):
        ring_all_reduce(tensor)
        if rank == 3:
            tensor.view(torch.int32)[-1] ^= 1

    def far(tensor):
        ring_all_reduce(tensor, op="max")

    planted = {"ring": ring_all_reduce, "one bit": one_bit, "far": far}
    original = dict(check.ALGORITHMS)
    check.ALGORITHMS.clear()
    check.ALGORITHMS.update(planted)
    rows = check.check_collectives([4 * 1003], repeats=1)
    check.ALGORITHMS.clear()
    check.ALGORITHMS.update(original)
    return {row.algorithm: row.is_right for row in rows}


# Somebody does not come


def one_asleep(rank):
    """Rank 2 does not take part in the group of 0, 2 and 3; rank 1 is not in it."""
    group = distributed.new_group([0, 2, 3], timeout=timedelta(seconds=2))
    if rank == 2:
        time.sleep(3)
        return None
    start = time.perf_counter()
    error = error_of(lambda: ring_all_reduce(torch.ones(5), group=group))
    return error, time.perf_counter() - start
