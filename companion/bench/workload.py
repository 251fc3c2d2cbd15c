"""One thing to measure: ours, a peer's, and how to tell that both computed the same."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Workload"]


@dataclass(frozen=True)
class Workload:
    """Two functions that compute the same thing.

    Inputs are made before, outside the functions: only the work itself is timed. Both run once
    before the clock starts, so that compilation and caches are not counted.
    """

    name: str
    """What is computed and how large it is: ``"wasserstein_1d n=100000 uniform"``."""
    peer: str
    """Who it is compared with: ``"POT torch backend"``."""
    ours: Callable[[], object]
    theirs: Callable[[], object]
    equal: Callable[[object, object], bool]
    """Whether the results of ``ours`` and ``theirs`` agree; asked before anything is timed."""
    bar: float | None = None
    """The least ratio peer ÷ ours that is good enough; None to report only."""
    baseline: Callable[[], object] | None = None
    """What both sides do besides, such as a layer that both extend. It is timed in the same turns,
    and its time is taken from theirs and ours: what is compared is the overhead over it."""
