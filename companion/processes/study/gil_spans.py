"""Who holds the interpreter's lock, and when: seen by threads that do nothing but read the clock.

A thread that finds a gap between two readings did not run in between.

Source: Beazley 2010 on how the lock changes hands. Difference: he instruments the interpreter; we
only look at the clock.
Chapter: course/10_processes.ipynb.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from companion.checks import check_count, check_number

__all__ = ["GilSpan", "gil_timeline"]

GAP_S = 50e-6  # between two readings lies less than 1 µs; between two turns, a switch interval


class GilSpan(NamedTuple):
    """A time in which one thread ran without a gap.

    Fields:
        worker: Number of the thread.
        start_s, end_s: From the start of the measurement.
    """

    worker: int
    start_s: float
    end_s: float


def gil_timeline(
    switch_interval_s: float, *, workers: int = 2, duration_s: float = 0.1
) -> list[GilSpan]:
    """Let threads read the clock as fast as they can, and note when each of them ran.

    The interpreter's switch interval is changed for the whole process, and put back at the end.

    Args:
        switch_interval_s: How long a thread keeps the lock before it is asked to let go.
        workers: Threads, at least 1.
        duration_s: Of the measurement.

    Returns:
        The spans of all threads, by their start. With the interpreter's lock they do not overlap.

    Raises:
        TypeError, ValueError: An argument does not fit.

    Example:
        >>> spans = gil_timeline(0.002, workers=2, duration_s=0.03)
        >>> all(one.end_s <= next.start_s for one, next in zip(spans, spans[1:]))
        True
    """
    check_number("switch_interval_s", switch_interval_s, above=0, most=1000)  # the system's limit
    check_number("duration_s", duration_s, above=0, most=threading.TIMEOUT_MAX)
    check_count("workers", workers)
    found: list[list[GilSpan]] = [[] for _ in range(workers)]
    begins: list[float] = []
    barrier = threading.Barrier(workers, action=lambda: begins.append(time.perf_counter()))

    def watch(worker: int) -> None:
        barrier.wait()
        found[worker] = _spans(worker, begins[0], duration_s)

    threads = [threading.Thread(target=watch, args=(worker,)) for worker in range(workers)]
    with _switching_every(switch_interval_s):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sorted((span for spans in found for span in spans), key=lambda span: span.start_s)


def _spans(worker: int, begin: float, duration_s: float) -> list[GilSpan]:
    clock, deadline = time.perf_counter, begin + duration_s
    spans: list[GilSpan] = []
    start = last = clock()
    while (now := clock()) < deadline:
        if now - last > GAP_S:
            spans.append(GilSpan(worker, start - begin, last - begin))
            start = now
        last = now
    if last < deadline:  # else it came to its first turn when all was over
        spans.append(GilSpan(worker, start - begin, last - begin))
    return spans


@contextmanager
def _switching_every(seconds: float) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
