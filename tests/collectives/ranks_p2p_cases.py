"""What the ranks of one launch do: every algorithm, group size, op, dtype and size, in one go.

Each case ends as one row: a digest of the bits, and how far they are from what they should be.
"""

import hashlib
import itertools

import torch
from torch import distributed

from companion.collectives.halving_doubling import halving_doubling_all_reduce
from companion.collectives.hierarchical import hierarchical_all_reduce
from companion.collectives.parameter_server import parameter_server_all_reduce
from companion.collectives.ring import ring_all_reduce
from companion.collectives.ring_halves import ring_all_gather, ring_reduce_scatter
from companion.collectives.tree import tree_all_reduce
from tests.collectives import summation_order

GROUPS = {
    "1": [[r] for r in range(8)],
    "2": [[0, 7], [2, 1], [4, 5], [6, 3]],
    "3 and 5": [[6, 1, 4], [0, 2, 3, 5, 7]],
    "4": [[5, 1, 2, 4]],
    "7": [[7, 1, 2, 3, 4, 5, 6]],
    "8": [list(range(8))],
}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
OPS = ("sum", "mean", "max", "min", "prod")
SMALL = {("mean", torch.float32), ("sum", torch.int64), ("prod", torch.float32)}
COMBINE = {
    "sum": torch.add,
    "mean": torch.add,
    "prod": torch.mul,
    "max": torch.maximum,
    "min": torch.minimum,
}
GLOO = {
    "sum": distributed.ReduceOp.SUM,
    "mean": distributed.ReduceOp.SUM,
    "prod": distributed.ReduceOp.PRODUCT,
    "max": distributed.ReduceOp.MAX,
    "min": distributed.ReduceOp.MIN,
}


def ranks_per_host(size):
    return {4: 2, 8: 4}.get(size, size if size % 2 else 1)


def algorithms(size):
    per_host = ranks_per_host(size)

    def hosts(tensor, **settings):
        return hierarchical_all_reduce(tensor, ranks_per_host=per_host, **settings)

    def short_ring(tensor, **settings):
        # 300 bytes, or some 20 segments of a chunk: thousands would show nothing more.
        return ring_all_reduce(tensor, chunk_bytes=max(300, tensor.nbytes // 150), **settings)

    return {
        "ring": ring_all_reduce,
        "ring in segments": short_ring,
        "tree": tree_all_reduce,
        "halving_doubling": halving_doubling_all_reduce,
        "parameter_server": parameter_server_all_reduce,
        "hierarchical": hosts,
    }


def replay(name, inputs, op):
    combine = COMBINE[op]
    if name == "hierarchical":
        per_host = ranks_per_host(len(inputs))
        total = summation_order.hierarchical(inputs, combine, ranks_per_host=per_host)
    else:
        name = "ring" if name.startswith("ring") else name
        total = getattr(summation_order, name)(inputs, combine)
    return total / len(inputs) if op == "mean" else total


def cases(size):
    """(op, dtype, number of elements)."""
    for op, dtype in itertools.product(OPS, DTYPES):
        if op == "mean" and not dtype.is_floating_point:
            continue
        small = (0, 1, size - 1, 10) if (op, dtype) in SMALL else ()
        for n in dict.fromkeys((*small, 1003)):
            yield op, dtype, n
    yield "sum", torch.float32, 100_003
    yield "max", torch.bfloat16, 100_003


def inputs_of(size, op, dtype, n):
    """All ranks' tensors; sizes of the numbers such that no product leaves fp16's range."""
    generator = torch.Generator().manual_seed(1000 * n + len(op))
    if dtype == torch.int64:
        shape = (size, n)
        return list(torch.randint(-(2**40), 2**40, shape, dtype=dtype, generator=generator))
    signs = torch.randint(0, 2, (size, n), generator=generator) * 2 - 1
    values = torch.rand(size, n, generator=generator, dtype=torch.float64) * 0.75 + 0.5
    return list((signs * values).to(dtype))


def digest(tensor):
    data = tensor.contiguous().view(-1).view(torch.uint8) if tensor.numel() else tensor
    return hashlib.sha1(data.numpy().tobytes()).hexdigest()


def bound(inputs, op):
    """How far two summation orders may lie apart, elementwise: (P−1)·eps·Σ|x|, or ·Π|x|."""
    eps = torch.finfo(inputs[0].dtype).eps
    magnitudes = torch.stack(inputs).double().abs()
    hops = len(inputs) - 1
    if op == "prod":
        return 1.1 * hops * eps * magnitudes.prod(0)
    total = magnitudes.sum(0)
    return (hops * total + total) * eps / len(inputs) if op == "mean" else hops * eps * total


def gap(ours, theirs, inputs, op):
    """The largest distance in units of the bound; 0 if equal to the bit."""
    if torch.equal(ours, theirs):
        return 0.0
    if op in ("max", "min") or not ours.dtype.is_floating_point:
        return float("inf")
    return float(((ours.double() - theirs.double()).abs() / bound(inputs, op)).max())


def run_cases(group, place, size):
    rows = []
    for op, dtype, n in cases(size):
        inputs = inputs_of(size, op, dtype, n)
        theirs = inputs[place].clone()
        distributed.all_reduce(theirs, GLOO[op], group=group)
        theirs = theirs / size if op == "mean" else theirs
        for name, algorithm in algorithms(size).items():
            ours = inputs[place].clone()
            returned = algorithm(ours, op=op, group=group)
            rows.append(
                {
                    "case": (name, op, str(dtype), n),
                    "in_place": returned is ours,
                    "digest": digest(ours),
                    "gap_to_gloo": gap(ours, theirs, inputs, op),
                    # Asked of one rank, for all must have the same bits.
                    "is_replay": place > 0 or torch.equal(ours, replay(name, inputs, op)),
                }
            )
        rows.append(reduce_scatter_row(group, place, inputs, op, dtype, n))
    return rows


def reduce_scatter_row(group, place, inputs, op, dtype, n):
    mine = inputs[place].clone()
    chunk = ring_reduce_scatter(mine, op=op, group=group)
    expected = torch.tensor_split(replay("ring", inputs, op), len(inputs))[place]
    gathered = ring_all_gather(chunk, group=group)
    return {
        "case": ("reduce_scatter, all_gather", op, str(dtype), n),
        "in_place": torch.equal(mine, inputs[place]),  # here: left as it was
        "digest": digest(gathered),
        "gap_to_gloo": 0.0,
        "is_replay": torch.equal(chunk, expected),
    }


def all_groups(rank, world_size):
    """Rows of every group that this rank is in, by the group's members."""
    torch.set_num_threads(1)
    result = {}
    for parts in GROUPS.values():
        # Everybody takes part in making each group, then the groups run side by side.
        groups = [distributed.new_group(members, sort_ranks=False) for members in parts]
        for members, group in zip(parts, groups, strict=True):
            if rank in members:
                place = members.index(rank)
                result[tuple(members)] = run_cases(group, place, len(members))
    distributed.barrier()
    return result
