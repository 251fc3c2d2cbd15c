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
    ceiling: float | None = None
    """The greatest ratio that is still right, where a gain is claimed to be impossible."""
    limit_s: float | None = None
    """The longest that ``ours`` may take, in seconds per call, whatever the peer takes."""
    work: float | None = None
    """Operations, or bytes moved, in one call of either side: then rates are shown as well."""
    work_unit: str = "FLOP"
    baseline: Callable[[], object] | None = None
    """What both sides do besides, such as a layer that both extend. It is timed in the same turns,
    and its time is taken from theirs and ours: what is compared is the overhead over it."""

    def met_by(self, ratio: float, ours_s: float) -> bool:
        """Whether a measured ratio and time keep to ``bar``, ``ceiling`` and ``limit_s``.

        Example:
            >>> work = Workload("n=1", "peer", int, int, int.__eq__, bar=2.0, limit_s=0.5)
            >>> work.met_by(ratio=2.0, ours_s=0.5), work.met_by(ratio=3.0, ours_s=0.6)
            (True, False)
        """
        return (
            (self.bar is None or ratio >= self.bar)
            and (self.ceiling is None or ratio <= self.ceiling)
            and (self.limit_s is None or ours_s <= self.limit_s)
        )
