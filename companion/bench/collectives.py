"""All-reduce among the processes of one host, beside gloo, PyTorch's library for a CPU.

The ranks stand by in processes of their own; a call of ours or theirs is one order to all of them,
long enough (many all-reduces, if they are short) that giving it does not count. The sums timed are
of zeros, for which every repetition finds the same numbers; that both sides agree is asked with
random ones, of all ranks to the bit. Where the peer is "α + βS, fitted", it waits for as long as a
straight line through the times of other sizes predicts: a ratio of 1 is a perfect prediction.
"""

import functools
import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

from companion.collectives import (
    DataParallel,
    algorithm_bandwidth,
    bus_bandwidth,
    collective_cost,
    fit_alpha_beta,
    ring_all_reduce,
    shared_memory_all_reduce,
)
from companion.collectives.study.delayed import delayed
from companion.collectives.study.standing_ranks import StandingRanks
from companion.measure.workload import Workload

__all__ = ["workloads"]

KIB, MIB = 2**10, 2**20
SHARED_SIZES, RING_SIZES = (4 * KIB, 64 * KIB, MIB, 8 * MIB, 64 * MIB), (8 * MIB, 64 * MIB)
SHARED_BARS, RING_BAR = {2: 2.0, 4: 1.0}, 0.7
FITTED_SIZES, HELD_OUT_SIZES = (KIB, 16 * KIB, 256 * KIB, 4 * MIB), (4 * KIB, 64 * KIB, MIB)
FIT_BARS = (0.75, 1.25)
OVERLAP_BAR = 1.34  # so the overlapped time is at most 0.746 of the serial one
LAYERS, WIDTH, BATCH = 6, 512, 2048
MOVED_BYTES, MOST_CALLS = 32 * MIB, 100  # of one order

ALGORITHMS: dict[str, Callable[..., object]] = {
    "shared_memory_all_reduce": shared_memory_all_reduce,
    "ring_all_reduce": ring_all_reduce,
    "gloo": distributed.all_reduce,
}


def workloads(device: str) -> Iterator[Workload]:
    """Of a CPU's memory only: all-reduces, predictions of their times, overlap with backward."""
    if device != "cpu":
        return
    for size in (2, 4):
        with StandingRanks(size) as ranks:
            for bytes_ in SHARED_SIZES:
                bar = SHARED_BARS[size]
                yield from _all_reduce(ranks, size, "shared_memory_all_reduce", bytes_, bar)
            for bytes_ in RING_SIZES:
                yield from _all_reduce(ranks, size, "ring_all_reduce", bytes_, RING_BAR)
            if size == 2:
                yield from _predictions(ranks, size)
                yield _overlap(ranks, size)


# What is measured: the side of the process that measures


def _all_reduce(
    ranks: StandingRanks, size: int, name: str, bytes_: int, bar: float
) -> Iterator[Workload]:
    """Ours and gloo's; once they are measured, their bandwidths are printed."""
    times_s: dict[str, list[float]] = {name: [], "gloo": []}

    def call(algorithm: str) -> Callable[[], None]:
        def run() -> None:
            times_s[algorithm].append(max(ranks.order(reduce_zeros, algorithm, bytes_)))

        return run

    yield Workload(
        name=f"{name} P={size}, {_words(bytes_)} float32, {_calls(bytes_)} calls",
        peer="gloo all_reduce",
        ours=call(name),
        theirs=call("gloo"),
        equal=lambda *_: _agree(ranks.order(reduce_random, name, bytes_)),
        bar=bar,
    )
    for algorithm, seconds in times_s.items():
        if seconds[1:]:  # the first is a warm-up
            time_s = statistics.median(seconds[1:])
            rates = algorithm_bandwidth(bytes_, time_s), bus_bandwidth(bytes_, time_s, size)
            algbw, busbw = (f"{rate / 1e9:.3g} GB/s" for rate in rates)
            text = f"P={size}, {_words(bytes_)}, {algorithm}: algbw {algbw}, busbw {busbw}"
            print(f"collectives: {text}", file=sys.stderr, flush=True)


def _predictions(ranks: StandingRanks, size: int) -> Iterator[Workload]:
    """The times of sizes between those that α and β were fitted to."""
    name = "ring_all_reduce"
    times_s = [_median_s(ranks, name, bytes_) for bytes_ in FITTED_SIZES]
    alpha_s, beta = fit_alpha_beta(FITTED_SIZES, times_s, algorithm="ring", ranks=size)
    for bytes_ in HELD_OUT_SIZES:
        time_s = collective_cost(
            "ring", ranks=size, bytes=bytes_, alpha_s=alpha_s, beta_s_per_byte=beta
        )
        yield Workload(
            name=f"{name} P={size}, {_words(bytes_)} float32, {_calls(bytes_)} calls, held out",
            peer=f"α + βS, fitted: {alpha_s * 1e6:.3g} µs, {1e-9 / beta:.3g} GB/s",
            ours=functools.partial(ranks.order, reduce_zeros, name, bytes_),
            theirs=functools.partial(time.sleep, _calls(bytes_) * time_s),
            equal=lambda *_, bytes_=bytes_: _agree(ranks.order(reduce_random, name, bytes_)),
            bar=FIT_BARS[0],
            ceiling=FIT_BARS[1],
        )


def _median_s(ranks: StandingRanks, name: str, bytes_: int) -> float:
    rounds = [max(ranks.order(reduce_zeros, name, bytes_)) for _ in range(8)]
    return statistics.median(rounds[1:])


def _overlap(ranks: StandingRanks, size: int) -> Workload:
    """Backward whose buckets travel meanwhile, beside one that sends when it is done."""
    compute_s = max(min(times) for times in ranks.order(compute_times))
    schedules = [ranks.order(backward, name, compute_s) for name in ("serial", "overlapped")]
    equal = schedules[0] == schedules[1] and len(set(schedules[0])) == 1
    return Workload(
        name=f"DataParallel P={size}, {LAYERS} layers of {WIDTH}, backward in buckets over a "
        f"link as slow as backward",
        peer="all gradients, then one message",
        ours=functools.partial(ranks.order, backward, "overlapped", compute_s),
        theirs=functools.partial(ranks.order, backward, "serial", compute_s),
        equal=lambda ours, theirs: equal and ours == theirs,
        bar=OVERLAP_BAR,
        baseline=functools.partial(ranks.order, forward),
    )


def _words(bytes_: int) -> str:
    return f"{bytes_ // MIB} MiB" if bytes_ >= MIB else f"{bytes_ // KIB} KiB"


def _calls(bytes_: int) -> int:
    """All-reduces of one order: enough that its way to the ranks and back is short beside them."""
    return max(1, min(MOST_CALLS, MOVED_BYTES // bytes_))


def _agree(results: "Sequence[Compared]") -> bool:
    """The same bits on all ranks, as near to gloo's as the orders of summation allow."""
    return len({row.digest for row in results}) == 1 and max(row.gap for row in results) <= 1


# What the ranks do


class Compared(NamedTuple):
    """A rank's result beside gloo's."""

    digest: str
    gap: float  # in units of (P−1)·eps·Σ|x|


def reduce_zeros(name: str, bytes_: int) -> float:
    """Seconds per all-reduce."""
    tensor, calls, reduce = _zeros(bytes_), _calls(bytes_), ALGORITHMS[name]
    start_s = time.perf_counter()
    for _ in range(calls):
        reduce(tensor)
    return (time.perf_counter() - start_s) / calls


@functools.lru_cache(maxsize=1)
def _zeros(bytes_: int) -> Tensor:
    return torch.zeros(bytes_ // 4)


def reduce_random(name: str, bytes_: int) -> Compared:
    """Add up random numbers, ours and gloo's."""
    generator = torch.Generator().manual_seed(distributed.get_rank())
    ours = torch.randn(bytes_ // 4, generator=generator)
    theirs, magnitudes = ours.clone(), ours.abs()
    ALGORITHMS[name](ours)
    distributed.all_reduce(theirs)
    distributed.all_reduce(magnitudes)
    hops = distributed.get_world_size() - 1
    bound = hops * torch.finfo(ours.dtype).eps * magnitudes
    digest = hashlib.sha256(ours.numpy().tobytes()).hexdigest()
    return Compared(digest, ((ours - theirs).abs() / bound).max().item())


@functools.cache
def _inputs() -> Tensor:
    generator = torch.Generator().manual_seed(distributed.get_rank())
    return torch.randn(BATCH, WIDTH, generator=generator)


def _network() -> nn.Sequential:
    """The same weights on every rank."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


@functools.cache
def _schedule(name: str, compute_s: float) -> DataParallel:
    network = _network()
    gradient_bytes = sum(p.nbytes for p in network.parameters())
    bucket_bytes = gradient_bytes if name == "serial" else gradient_bytes // LAYERS
    link = delayed(ring_all_reduce, beta_s_per_byte=compute_s / gradient_bytes)
    return DataParallel(
        network, bucket_bytes=bucket_bytes, first_bucket_bytes=bucket_bytes, reduce=link
    )


def compute_times() -> list[float]:
    """Seconds of backward alone, of several."""
    network, times_s = _network(), []
    for _ in range(5):
        loss = network(_inputs()).sum()
        start_s = time.perf_counter()
        loss.backward()
        times_s.append(time.perf_counter() - start_s)
    return times_s


def backward(name: str, compute_s: float) -> float:
    """Forward and backward with averaging; the gradients' norm."""
    model = _schedule(name, compute_s)
    model.zero_grad()
    model(_inputs()).sum().backward()
    return sum(p.grad.double().norm().item() for p in model.parameters())


@torch.enable_grad()
def forward() -> None:
    """What comes before backward, and is not part of the comparison."""
    _alone()(_inputs()).sum()


@functools.cache
def _alone() -> nn.Sequential:
    return _network()
