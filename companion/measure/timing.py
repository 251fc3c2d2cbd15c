"""Timing two functions fairly: equal results first, then turn and turn about.

The two take turns so that a machine that slows down slows both; who begins changes each round.
A pause before each turn lets the threads of the other side go to sleep.
The median of the rounds is compared: one round disturbed by another process moves it little.
An overhead is a small difference of large times, so it takes more rounds; a round's baseline is
measured between the two sides, and subtracted in that round, before any median.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from companion.measure.workload import Workload

__all__ = ["Comparison", "compare", "limited_threads"]

ROUNDS = 7
OVERHEAD_ROUNDS = 21
ROUND_S = 0.05  # a round repeats a short call until it lasts about this long
SETTLE_S = 0.2  # the idle threads of a BLAS or OpenMP spin for a while, and would take a core


@dataclass(frozen=True)
class Comparison:
    """Seconds per call, one per round; all empty when the results differed."""

    equal: bool
    ours_s: tuple[float, ...] = ()
    peer_s: tuple[float, ...] = ()
    baseline_s: tuple[float, ...] = ()
    """Already taken from the other two; empty where there is no baseline."""

    @property
    def ratio(self) -> float | None:
        """Median of the peer ÷ median of ours; infinite where our overhead is not measurable."""
        if not self.equal:
            return None
        ours_s = statistics.median(self.ours_s)
        return statistics.median(self.peer_s) / ours_s if ours_s > 0 else math.inf


def compare(workload: Workload, *, device: str = "cpu") -> Comparison:
    """Check that both sides agree, then time them in turns.

    Args:
        workload: What to run.
        device: ``"cuda"`` waits for the GPU before the clock is read.

    Example:
        >>> same = {"ours": lambda: sum(range(100)), "theirs": lambda: 4950}
        >>> work = Workload(name="sum", peer="Gauss", equal=lambda a, b: a == b, **same)
        >>> compare(work).equal
        True
    """
    if not workload.equal(workload.ours(), workload.theirs()):
        return Comparison(equal=False)
    sides = {"ours_s": workload.ours, "peer_s": workload.theirs}
    if workload.baseline is not None:
        sides = {"ours_s": workload.ours, "baseline_s": workload.baseline} | sides
    repeats = {name: _repeats(call, device) for name, call in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    with _collector_off():
        for turn in range(OVERHEAD_ROUNDS if workload.baseline is not None else ROUNDS):
            for name in sides if turn % 2 == 0 else reversed(sides):
                times[name].append(_seconds(sides[name], repeats[name], device))
    if workload.baseline is not None:
        for name in ("ours_s", "peer_s"):
            pairs = zip(times[name], times["baseline_s"], strict=True)
            times[name] = [whole - baseline for whole, baseline in pairs]
    return Comparison(True, **{name: tuple(rounds) for name, rounds in times.items()})


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Run PyTorch, BLAS and OpenMP with this many threads, and put the old number back."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def _repeats(call: Callable[[], object], device: str) -> int:
    """Calls per round, from a second warm-up call."""
    return max(1, round(ROUND_S / max(_seconds(call, 1, device), 1e-6)))


def _seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    _wait_for(device)
    if device != "cuda":  # a GPU that rests would lower its clock
        time.sleep(SETTLE_S)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait_for(device)
    return (time.perf_counter() - start) / repeats


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the garbage collector out of the clock: it would run in whoever's turn it is."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
