"""What more workers bring: each does the same work, so W workers do W times as much.

    s(W) = W · t(1) / t(W)        efficiency(W) = s(W) / W

Chapter: course/10_processes.ipynb.  Dimension key: W workers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from companion.checks import check_choice, check_count, typed
from companion.processes.amdahls_law import fit_parallel_fraction
from companion.processes.pool.crew import Crew

__all__ = ["SpeedupRow", "SpeedupTable", "speedup"]


@dataclass(frozen=True)
class SpeedupRow:
    """One number of workers.

    Fields:
        workers: W.
        time_s: From the first one's start to the last one's end, the fastest of the repeats.
        speedup: Work per second, compared with one worker.
        efficiency: Speedup per worker; 1 is perfect.
    """

    workers: int
    time_s: float
    speedup: float
    efficiency: float


@dataclass(frozen=True)
class SpeedupTable:
    """The rows, over which it can be iterated, and what follows from them.

    Fields:
        kind: ``"thread"`` or ``"process"``.
        rows: In the order asked for.
    """

    kind: Literal["thread", "process"]
    rows: tuple[SpeedupRow, ...]

    def __iter__(self) -> Iterator[SpeedupRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def parallel_fraction(self) -> float:
        """Amdahl's f, fitted to all rows, in [0, 1].

        Raises:
            ValueError: There is no row of more than one worker.
        """
        return fit_parallel_fraction(
            [row.workers for row in self.rows], [row.speedup for row in self.rows]
        )


@typed
def speedup(
    work: Callable[[], object],
    *,
    workers: Sequence[int] = (1, 2),
    kind: Literal["thread", "process"] = "thread",
    repeats: int = 5,
) -> SpeedupTable:
    """Let 1, 2, ... workers each do ``work()`` once, and compare the work done per second.

    The workers are started once, and each does the work once untimed, so that neither starts nor
    imports are counted. Then all start at the same moment. The numbers of workers take turns, so
    that a machine that slows down slows all of them.

    Args:
        work: Called without arguments, its result is dropped. For processes it must be picklable:
            a function of a module, or a ``functools.partial`` of one.
        workers: Numbers of workers W. One worker is measured in any case.
        kind: Of the workers. Processes are spawned.
        repeats: Rounds; the fastest time of each W counts.

    Returns:
        One row for each W.

    Raises:
        TypeError, ValueError: An argument does not fit, or ``work`` cannot be sent to a process.
        WorkFailed: ``work`` raises, or ends its process.

    Example:
        >>> from functools import partial
        >>> from companion.processes.study.workloads import wait
        >>> waiting = speedup(partial(wait, 0.05), workers=(1, 4))
        >>> [row.workers for row in waiting], waiting.rows[1].speedup > 2
        ([1, 4], True)
    """
    workers = list(workers)
    if not workers:
        raise ValueError("workers: expected at least one number, got none")
    for count in workers:
        check_count("workers", count)
    check_count("repeats", repeats)
    check_choice("kind", kind, ("thread", "process"))
    counts = sorted({1, *workers})
    with Crew(work, size=counts[-1], kind=kind) as crew:
        rounds = [{count: crew.time_s(count) for count in counts} for _ in range(repeats)]
    times_s = {count: min(one[count] for one in rounds) for count in counts}
    rows = [_row(count, times_s[count], times_s[1]) for count in workers]
    return SpeedupTable(kind, tuple(rows))


def _row(workers: int, time_s: float, alone_s: float) -> SpeedupRow:
    gain = workers * alone_s / time_s
    return SpeedupRow(workers, time_s, gain, gain / workers)
