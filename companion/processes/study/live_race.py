"""Threads that count together, in four ways and on no schedule: how many updates get lost?

Chapter: course/10_processes.ipynb.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, get_args

from companion.checks import check_choice, check_count, typed

__all__ = ["LiveRace", "Way", "live_race"]

Way = Literal["one line", "with a call", "with a lock", "own counters"]
SWITCH_INTERVAL_S = 1e-5  # not 5 ms: many changes of the thread in a short time


@dataclass(frozen=True)
class LiveRace:
    """What came of it.

    Fields:
        way: How each thread counted.
        expected, observed: The sum of all increments, and the end value.
        time_s: From the common start to the last thread's end.
    """

    way: Way
    expected: int
    observed: int
    time_s: float

    @property
    def lost(self) -> int:
        """Updates that others have overwritten."""
        return self.expected - self.observed


@typed
def live_race(way: Way, increments: int, *, workers: int = 2) -> LiveRace:
    """Let threads count as fast as they can; the order is the system's.

    Meanwhile the interpreter's switch interval is 10 µs.

    Args:
        way: ``"one line"``: ``total += 1``, all on one counter. ``"with a call"``: a function is
            called between load and store. ``"with a lock"``: the same, inside a lock.
            ``"own counters"``: the same without a lock, each thread on a counter of its own; they
            are added up at the end.
        increments: By each thread, at least 1.
        workers: Threads, at least 1.

    Raises:
        TypeError, ValueError: An argument is out of range.

    Example:
        >>> result = live_race("with a lock", 1000, workers=3)
        >>> result.expected, result.lost
        (3000, 0)
    """
    check_choice("way", way, get_args(Way))
    check_count("increments", increments)
    check_count("workers", workers)
    counters = [_Counter() for _ in range(workers if way == "own counters" else 1)]
    count = _WAYS[way]
    start = threading.Barrier(workers + 1)

    def run(counter: _Counter) -> None:
        with suppress(threading.BrokenBarrierError):
            start.wait()
            count(counter, increments)

    crew = [
        threading.Thread(target=run, args=(counters[n % len(counters)],)) for n in range(workers)
    ]
    with _switch_interval(SWITCH_INTERVAL_S):
        try:
            for thread in crew:
                thread.start()
        except BaseException:
            start.abort()  # who has started shall not wait for the others for ever
            raise
        start.wait()
        begun = time.perf_counter()
        for thread in crew:
            thread.join()
        seconds = time.perf_counter() - begun
    return LiveRace(way, workers * increments, sum(c.total for c in counters), seconds)


class _Counter:
    def __init__(self) -> None:
        self.total, self.lock = 0, threading.Lock()


def _same(number: int) -> int:
    return number


def _in_one_line(counter: _Counter, increments: int) -> None:
    for _ in range(increments):
        counter.total += 1


def _with_a_call(counter: _Counter, increments: int) -> None:
    for _ in range(increments):
        counter.total = _same(counter.total) + 1


def _with_a_lock(counter: _Counter, increments: int) -> None:
    for _ in range(increments):
        with counter.lock:
            counter.total = _same(counter.total) + 1


_WAYS: dict[Way, Callable[[_Counter, int], None]] = {
    "one line": _in_one_line,
    "with a call": _with_a_call,
    "with a lock": _with_a_lock,
    "own counters": _with_a_call,
}


@contextmanager
def _switch_interval(seconds: float) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
