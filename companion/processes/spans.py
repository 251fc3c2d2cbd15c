"""When a worker ran a task: what timelines are drawn from."""

from typing import NamedTuple

__all__ = ["Span"]


class Span(NamedTuple):
    """One worker busy with one task.

    Times are those of ``time.monotonic``, which every process of a machine reads from one clock:
    spans of different processes may stand on one axis.
    """

    worker: int
    task: int
    """Number of the task, in the order of submission."""
    start_s: float
    end_s: float
