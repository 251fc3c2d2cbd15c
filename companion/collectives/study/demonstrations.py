"""What the ranks of chapter 11 run; a spawned process can only import it, so it stands here.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from companion.collectives.agreement import CollectiveMismatch
from companion.collectives.data_parallel import DataParallel
from companion.collectives.halving_doubling import halving_doubling_all_reduce
from companion.collectives.hierarchical import hierarchical_all_reduce
from companion.collectives.parameter_server import parameter_server_all_reduce
from companion.collectives.ring import ring_all_reduce
from companion.collectives.shared_memory import shared_memory_all_reduce
from companion.collectives.study.networks import network
from companion.collectives.study.overlap import OverlapMeasurement, measure_overlap
from companion.collectives.study.plain import batches, train_digits_by_hand
from companion.collectives.tree import tree_all_reduce
from companion.collectives.wire.peers import PeerLost
from companion.collectives.zero import ZeroMemory, ZeroOptimizer
from companion.data import digits

__all__ = [
    "Compared",
    "bring_another_shape",
    "compare_with_gloo",
    "lose_a_peer",
    "overlap_on_a_slow_link",
    "reduce_a_column",
    "time_all_reduces",
    "train_digits_alone",
    "train_digits_both_ways",
    "training_memory",
]

ALGORITHMS: dict[str, Callable[..., Tensor]] = {
    "ring": ring_all_reduce,
    "tree": tree_all_reduce,
    "halving_doubling": halving_doubling_all_reduce,
    "parameter_server": parameter_server_all_reduce,
    "hierarchical": lambda tensor: hierarchical_all_reduce(tensor, ranks_per_host=2),
    "shared_memory": shared_memory_all_reduce,
}


class Compared(NamedTuple):
    """One algorithm's result on one rank."""

    digest: str  # of the bits
    error: float  # largest difference from gloo's result


def compare_with_gloo(rank: int, world_size: int, count: int) -> dict[str, Compared]:
    """Add up ``count`` random numbers of each rank with every algorithm, and with gloo."""
    generator = torch.Generator().manual_seed(rank)
    numbers = torch.randint(-(10**6), 10**6, (count,), generator=generator) / 1e6
    theirs = numbers.clone()
    distributed.all_reduce(theirs)
    results = {"gloo": Compared(_digest(theirs), 0.0)}
    for name, all_reduce in ALGORITHMS.items():
        ours = all_reduce(numbers.clone())
        results[name] = Compared(_digest(ours), (ours - theirs).abs().max().item())
    return results


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:8]


def bring_another_shape(rank: int, world_size: int, different: int) -> tuple[str, list[float]]:
    """Rank ``different`` brings a transposed tensor; then all bring the same shape.

    Returns:
        The error's text, and the result of the call after it.
    """
    tensor = torch.ones(3, 5).t() if rank == different else torch.ones(3, 5)
    try:
        ring_all_reduce(tensor)
    except CollectiveMismatch as error:
        text = str(error)
    else:
        text = "no error"
    return text, ring_all_reduce(torch.tensor([float(rank), 1.0])).tolist()


def lose_a_peer(rank: int, world_size: int, leaving: int) -> str:
    """Rank ``leaving`` goes home before the call; the others say what they saw."""
    if rank == leaving:
        return "went home"
    try:
        ring_all_reduce(torch.ones(100_000))
    except PeerLost as error:
        return f"PeerLost: {error}"
    return "no error"


def reduce_a_column(rank: int, world_size: int) -> tuple[list, list]:
    """Add up the first column of a matrix in place: gloo's matrix afterwards, and ours."""
    theirs = torch.tensor([[10.0, 9.0], [11.0, 9.0]]) + torch.tensor([10.0 * rank, 0.0])
    ours = theirs.clone()
    distributed.all_reduce(theirs[:, 0])
    ring_all_reduce(ours[:, 0])
    return theirs.tolist(), ours.tolist()


def train_digits_alone(steps: int) -> tuple[Tensor, float]:
    """Train a small network on whole batches of digits, in one process.

    In float64, so that a difference beyond rounding cannot hide.

    Returns:
        All weights after training, and the accuracy on the last 297 digits.
    """
    model = network(64, 32, 10).double()
    weights = _train(model, model, steps, part=slice(None))
    images, labels = digits()
    right = model(images[1500:].flatten(1).double()).argmax(1) == labels[1500:]
    return weights, right.double().mean().item()


def train_digits_both_ways(rank: int, world_size: int, steps: int) -> tuple[Tensor, Tensor]:
    """All weights after training on a part of every batch: by hand, and with ``DataParallel``."""
    by_hand = train_digits_by_hand(rank, world_size, steps)
    model = network(64, 32, 10).double()
    return by_hand, _train(DataParallel(model), model, steps, part=slice(rank, None, world_size))


def _train(trained: nn.Module, model: nn.Module, steps: int, *, part: slice) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for pixels, labels in batches(steps):
        optimizer.zero_grad()
        F.cross_entropy(trained(pixels[part]), labels[part]).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def training_memory(rank: int, world_size: int) -> tuple[int, dict[int, ZeroMemory]]:
    """Bytes that live on this rank after a step and one more backward, for stages 0, 1 and 2.

    Returns:
        The number of parameters; and for each stage what AdamW's training keeps, in float32.
    """
    kept = {}
    for stage in (0, 1, 2):
        model = network(64, 255, 256, 10)
        parameters = list(model.parameters())
        if stage:
            optimizer = ZeroOptimizer(torch.optim.AdamW, parameters, stage=stage, lr=1e-3)
        else:
            optimizer = torch.optim.AdamW(parameters, lr=1e-3)
        for _ in range(2):
            model(torch.ones(4, 64)).sum().backward()
            kept[stage] = optimizer.memory() if stage else _plain_memory(optimizer, parameters)
            optimizer.step()
            optimizer.zero_grad()
    return sum(p.numel() for p in parameters), kept


def _plain_memory(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> ZeroMemory:
    moments = [v for state in optimizer.state.values() for v in state.values() if v.dim()]
    return ZeroMemory(
        weights=sum(p.nbytes for p in parameters),
        gradients=sum(p.grad.nbytes for p in parameters),
        optimizer=sum(m.nbytes for m in moments),
    )


def overlap_on_a_slow_link(rank: int, world_size: int) -> OverlapMeasurement:
    """Backward through six layers over a link that takes as long as the computing."""
    torch.set_num_threads(1)
    model = network(*[512] * 7)
    return measure_overlap(model, torch.ones(2048, 512), bucket_bytes=2**20, repeats=3)


def time_all_reduces(
    rank: int, world_size: int, sizes_bytes: Sequence[int], repeats: int
) -> dict[str, list[float]]:
    """Least time of each all-reduce at each size over the rounds, in seconds.

    All ranks start together; the time is that of the rank that ends last. The least of the rounds
    leaves out what other programs on the machine take.
    """
    contenders = {
        "ring": ring_all_reduce,
        "shared memory": shared_memory_all_reduce,
        "gloo": distributed.all_reduce,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for size in sizes_bytes:
        tensor = torch.zeros(size // 4)
        rounds = [
            {name: _time_s(all_reduce, tensor) for name, all_reduce in contenders.items()}
            for _ in range(repeats + 1)
        ][1:]
        for name in contenders:
            taken_s = torch.tensor([turn[name] for turn in rounds])
            distributed.all_reduce(taken_s, op=distributed.ReduceOp.MAX)
            times[name].append(taken_s.min().item())
    return times


def _time_s(all_reduce: Callable[[Tensor], object], tensor: Tensor) -> float:
    distributed.barrier()
    start_s = time.perf_counter()
    all_reduce(tensor)
    return time.perf_counter() - start_s
