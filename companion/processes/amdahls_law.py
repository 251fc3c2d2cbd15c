"""Amdahl's law: what more workers bring, when a part of the work cannot be shared out.

    s(W) = 1 / ((1 − f) + f / W)          f = (1 − 1/s) / (1 − 1/W)

Source: Amdahl 1967, who says it in words.
Chapter: course/10_processes.ipynb.  Dimension key: W workers.
"""

import math
from collections.abc import Sequence

from companion.checks import check_number, typed

__all__ = ["amdahl", "fit_parallel_fraction"]


def amdahl(fraction: float, workers: float) -> float:
    """The speedup that ``workers`` bring.

    Args:
        fraction: f, the part of one worker's time that can be shared out, in [0, 1].
        workers: W, at least 1; ``math.inf`` gives the limit 1 / (1 − f).

    Raises:
        ValueError: One of them is out of range, or f = 1 with infinitely many workers.

    Example:
        >>> amdahl(0.5, 2), amdahl(0.5, float("inf"))
        (1.3333333333333333, 2.0)
    """
    check_number("fraction", fraction, least=0, most=1)
    if not (isinstance(workers, float) and workers == math.inf):
        check_number("workers", workers, least=1)
    time = (1 - fraction) + fraction / workers
    if time == 0:
        raise ValueError("expected a part that cannot be shared out, or a finite number of workers")
    return 1 / time


@typed
def fit_parallel_fraction(workers: Sequence[float], speedups: Sequence[float]) -> float:
    """The fraction f of Amdahl's law that fits measured speedups best.

    1 − 1/s = f · (1 − 1/W) is a line through the origin: least squares, and exact for one point.
    Noise can carry f out of [0, 1], so it is cut off there.

    Args:
        workers, speedups: Measured, of equal length. One worker says nothing of f.

    Raises:
        ValueError: No speedup is of more than one worker, or one is not positive.

    Example:
        >>> fit_parallel_fraction([1, 2], [1.0, 1.6])
        0.75
    """
    workers, speedups = list(workers), list(speedups)
    for count, gain in zip(workers, speedups, strict=False):
        check_number("workers", count, least=1)
        check_number("speedups", gain, above=0)
    if len(workers) != len(speedups):
        raise ValueError(f"expected {len(workers)} speedups, got {len(speedups)}")
    points = [(1 - 1 / w, 1 - 1 / s) for w, s in zip(workers, speedups, strict=True)]
    square = sum(x * x for x, _ in points)
    if square == 0:
        raise ValueError(f"expected a speedup of more than one worker, got workers {workers}")
    return min(max(sum(x * y for x, y in points) / square, 0.0), 1.0)
