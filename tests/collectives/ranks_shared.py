"""What the ranks of one launch do for the tests of ``shared_memory_all_reduce``."""

import hashlib
import json
import os
import time
from datetime import timedelta
from itertools import product
from pathlib import Path

import torch
from torch import distributed

from companion.collectives.ring import ring_all_reduce
from companion.collectives.shared_memory import shared_memory_all_reduce
from companion.processes.shared_array import SharedArray

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
OPS = ("sum", "mean", "max", "min", "prod")
SIZES = (0, 1, 2, 3, 10, 1000, 40_000, 700_001)  # the last two do not go through one slot at once
TIMEOUT_S = 3
BY_HAND = {
    "sum": torch.add,
    "mean": torch.add,
    "prod": torch.mul,
    "max": torch.maximum,
    "min": torch.minimum,
}


def everything(rank, world_size):
    torch.set_num_threads(1)
    before = leftovers()
    cases = {
        "numbers": numbers(world_size, rank),
        "gloo": beside_gloo(rank),
        "layouts": layouts(rank),
        "nan": nan(rank),
        "mismatch": mismatches(rank),
        "refusals": refusals(rank),
        "many": many_calls(rank, world_size),
        "groups": two_groups(rank, world_size),
        "mixed": mixed_with_ring(rank),
    }
    return cases | {"before": before, "after": leftovers()}


def leftovers():
    """This process's names in shared memory, and how many files it has open."""
    names = sorted(path.name for path in Path("/dev/shm").glob(f"companion-{os.getpid()}-*"))
    return names, len(os.listdir("/proc/self/fd"))


def brought(rank, size, dtype):
    """What a rank brings: every rank can make what every other one has."""
    generator = torch.Generator().manual_seed(100 * rank + size)
    if dtype == torch.int64:
        return torch.randint(-9, 10, (size,), generator=generator)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)


def by_hand(op, tensors):
    """In rank order, rounded to the dtype at every step; the mean's division comes last."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total = BY_HAND[op](total, tensor)
    return total / len(tensors) if op == "mean" else total


def digest(tensor):
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).hexdigest()


def numbers(ranks, rank):
    """Which cases are not, to the bit, what they are by hand; and the bits of all."""
    wrong, bits = [], []
    for dtype, op, size in product(DTYPES, OPS, SIZES):
        if (dtype == torch.int64 and op == "mean") or (size > 1e5 and op in ("max", "min")):
            continue
        tensors = [brought(r, size, dtype) for r in range(ranks)]
        result = shared_memory_all_reduce(tensors[rank].clone(), op=op)
        bits.append(digest(result))
        if digest(by_hand(op, tensors)) != bits[-1]:
            wrong.append((str(dtype), op, size))
    return wrong, bits


def beside_gloo(rank):
    """The largest difference from gloo's own sum, in units of the last place of the largest."""
    errors = {}
    for dtype, size in product(DTYPES, (7, 50_000)):
        ours = brought(rank, size, dtype)
        theirs = ours.clone()
        shared_memory_all_reduce(ours)
        distributed.all_reduce(theirs)
        unit = 1.0 if dtype == torch.int64 else torch.finfo(dtype).eps * theirs.abs().max().item()
        errors[str(dtype), size] = (ours - theirs).abs().max().item() / unit
    return errors


def layouts(rank):
    """Strided tensors: the values that were summed up, and their neighbours."""
    matrix = torch.arange(12.0).view(3, 4) + 100 * rank
    shared_memory_all_reduce(matrix[:, 1])
    transposed = (torch.arange(6.0).view(2, 3) * (rank + 1)).t()
    shared_memory_all_reduce(transposed)
    large = torch.full((100_000, 2), float(rank + 1))
    shared_memory_all_reduce(large[:, 0])
    parameter = torch.nn.Parameter(torch.tensor([1.0 + rank]))
    shared_memory_all_reduce(parameter)
    scalar = shared_memory_all_reduce(torch.tensor(float(rank)))
    return {
        "column": matrix.tolist(),
        "transposed": transposed.tolist(),
        "large": (set(large[:, 0].tolist()), set(large[:, 1].tolist())),
        "parameter": (parameter.tolist(), parameter.requires_grad),
        "scalar": (scalar.item(), tuple(scalar.shape)),
    }


def nan(rank):
    tensor = torch.tensor([float("nan") if rank == 1 else 1.0, float(rank)])
    return [shared_memory_all_reduce(tensor.clone(), op=op).isnan().tolist() for op in OPS]


def error_of(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def mismatches(rank):
    """Rank 1 brings something else; after each error the next call is right."""
    cases = {
        "shape": (torch.ones(3), torch.ones(4), {}, {}),
        "dtype": (torch.ones(3), torch.ones(3, dtype=torch.float64), {}, {}),
        "op": (torch.ones(3), torch.ones(3), {"op": "sum"}, {"op": "max"}),
        "large": (torch.ones(500_000), torch.ones(500_001), {}, {}),
    }
    found = {}
    for name, (usual, odd, usual_options, odd_options) in cases.items():
        tensor, options = (odd, odd_options) if rank == 1 else (usual, usual_options)
        kept = tensor.clone()
        error = error_of(lambda t=tensor, o=options: shared_memory_all_reduce(t, **o))
        after = shared_memory_all_reduce(torch.ones(2)).tolist()
        found[name] = error, tensor.equal(kept), after
    return found


def refusals(rank):
    """One rank cannot take part: it says why, the others hear of it, and all go on."""
    bad = torch.ones(4, dtype=torch.int64) if rank == 1 else torch.ones(4)
    error = error_of(lambda: shared_memory_all_reduce(bad, op="mean"))
    return error, shared_memory_all_reduce(torch.ones(2)).tolist()


def many_calls(rank, ranks):
    """Sizes in turn, so that a slot used again too early would show."""
    wrong = 0
    for i in range(1500):
        size = (1, 50, 3000)[i % 3]
        total = shared_memory_all_reduce(torch.full((size,), float(i + rank)))
        expected = sum(i + r for r in range(ranks))
        wrong += int((total != expected).any())
    return wrong


def two_groups(rank, ranks):
    """Two groups of the same ranks, used in turn, and one of the first two ranks alone."""
    first, second = (distributed.new_group(list(range(ranks))) for _ in range(2))
    pair = distributed.new_group([0, 1])
    results = []
    for i in range(5):
        for group in (first, second):
            results.append(shared_memory_all_reduce(torch.tensor([i + rank]), group=group).item())
    if rank < 2:
        results.append(shared_memory_all_reduce(torch.tensor([rank]), group=pair).item())
    return results


def mixed_with_ring(rank):
    """Calls of the two kinds in one order."""
    results = []
    for i in range(4):
        all_reduce = (shared_memory_all_reduce, ring_all_reduce)[i % 2]
        results.append(all_reduce(torch.tensor([float(i + rank)])).item())
    return results


# A rank that sleeps: started without ``launch``, which would end the others


def loses_a_rank(rank, size, folder):
    """Rank 2 stays away; each other rank writes what it saw to a file."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo",
        store=distributed.FileStore(f"{folder}/store", size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    shared_memory_all_reduce(torch.ones(5))
    if rank == 2:
        time.sleep(300)
    start_s = time.monotonic()
    errors = [error_of(lambda: shared_memory_all_reduce(torch.ones(3_000_000))) for _ in range(2)]
    report = {"errors": errors, "seconds": time.monotonic() - start_s}
    Path(folder, f"{rank}.json").write_text(json.dumps(report))
    time.sleep(2)  # so that the other one, too, misses rank 2 and not us
    os._exit(0)  # the group's teardown would wait for the lost rank


def alone(rank, world_size):
    tensor = torch.tensor([3.0, 4.0])
    return shared_memory_all_reduce(tensor, op="mean").tolist(), SharedArray((2,)).size_bytes
