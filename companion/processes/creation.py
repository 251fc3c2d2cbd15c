"""What it costs to start a worker.

Chapter: course/10_processes.ipynb.
"""

import multiprocessing
import statistics
from dataclasses import dataclass
from typing import Literal, get_args

from companion.checks import check_choice, check_count
from companion.processes.alone.run import run_alone

__all__ = ["CreationCost", "WorkerKind", "measure_creation"]

WorkerKind = Literal["thread", "fork", "spawn", "forkserver"]


@dataclass(frozen=True)
class CreationCost:
    """Time from the start of a worker to the moment when it has done nothing and is gone.

    Fields:
        kind: How it was started.
        n: Workers measured.
        median_s, fastest_s: Of their times.
    """

    kind: WorkerKind
    n: int
    median_s: float
    fastest_s: float


def measure_creation(kind: WorkerKind, n: int) -> CreationCost:
    """Start ``n`` workers that do nothing, one after another, and time each until it is gone.

    It happens in a fresh small process, so no thread of the caller is in the way of a fork. One
    worker more is started before, untimed: the first also starts helpers. A spawned worker is an
    interpreter that imports nothing of ours.

    Args:
        kind: ``"thread"``, or a start method of ``multiprocessing``: ``"fork"``, ``"spawn"``,
            ``"forkserver"``.
        n: At least 1.

    Raises:
        TypeError, ValueError: This system has no such kind of worker, or ``n`` is out of range.

    Example:
        >>> cost = measure_creation("thread", 20)
        >>> 0 < cost.fastest_s <= cost.median_s
        True
    """
    here = ("thread", *multiprocessing.get_all_start_methods())
    kinds = [known for known in get_args(WorkerKind) if known in here]
    check_choice("kind", kind, kinds)
    check_count("n", n)
    seconds = run_alone("creation", kind, n, timeout_s=60 + n)
    return CreationCost(kind, n, statistics.median(seconds), min(seconds))
