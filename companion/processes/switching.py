"""What it costs to hand the turn to another worker.

Chapter: course/10_processes.ipynb.
"""

import os
import statistics
from dataclasses import dataclass
from typing import Literal

from companion.checks import check_choice, check_count
from companion.processes.alone.run import run_alone

__all__ = ["SwitchCost", "measure_switch"]


@dataclass(frozen=True)
class SwitchCost:
    """Time from letting the other one go on to the moment when it does.

    Fields:
        kind: ``"thread"`` or ``"process"``.
        n: Round trips measured.
        median_s, fastest_s: Of one way, that is half a round trip.
    """

    kind: Literal["thread", "process"]
    n: int
    median_s: float
    fastest_s: float


def measure_switch(n: int, *, kind: Literal["thread", "process"] = "thread") -> SwitchCost:
    """Two workers take turns: one wakes the other and sleeps until it is woken itself.

    Threads wake each other with a lock, processes with a byte in a pipe. It happens in a fresh
    small process; on several cores the two may lie on different ones.

    Args:
        n: Round trips, at least 1.
        kind: Of the two workers.

    Raises:
        TypeError, ValueError: An argument does not fit, or the system cannot fork.

    Example:
        >>> cost = measure_switch(50)
        >>> 0 < cost.fastest_s <= cost.median_s
        True
    """
    kinds = ["thread", "process"] if hasattr(os, "fork") else ["thread"]
    check_choice("kind", kind, kinds)
    check_count("n", n)
    seconds = run_alone("switch", kind, n, timeout_s=60 + n / 1000)
    return SwitchCost(kind, n, statistics.median(seconds), min(seconds))
