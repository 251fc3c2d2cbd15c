"""What is kept of one comparison, and its JSON form."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Record", "read_records", "write_records"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One workload, measured once on one machine. Times are seconds per call (medians)."""

    slug: str
    workload: str
    peer: str
    device: str
    ours_s: float | None
    """None, like every time, when the results differed and nothing was timed."""
    peer_s: float | None
    ours_range_s: tuple[float, float] | None
    """Fastest and slowest round; None, too, where only the median was kept."""
    peer_range_s: tuple[float, float] | None
    ratio: float | None
    """peer_s ÷ ours_s: above 1, ours is faster."""
    bar: float | None
    passed: bool
    """Results equal, and ``bar``, ``ceiling`` and ``limit_s`` kept where there are any."""
    equal: bool
    rounds: int
    """0 where it was not kept."""
    threads: int
    machine: str
    versions: dict[str, str]
    date: str
    baseline_s: float | None = None
    """Where the times are overheads: what was taken from both, the median of the baseline."""
    ceiling: float | None = None
    """The greatest ratio allowed."""
    limit_s: float | None = None
    """The longest that ours may take, in seconds per call."""
    work: float | None = None
    """Operations, or bytes moved, in one call; divided by a time, a rate."""
    work_unit: str = "FLOP"


def write_records(path: Path | str, records: Iterable[Record]) -> None:
    """Write records as a JSON list, in UTF-8."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(record) for record in records], indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_records(paths: Sequence[Path | str]) -> list[Record]:
    """Records of several files, in order.

    Raises:
        ValueError: If a file holds something else; the message names it.
    """
    records = []
    for path in paths:
        try:
            rows = json.loads(Path(path).read_text(encoding="utf-8"))
            records += [Record(**row) for row in rows]
        except (ValueError, TypeError) as error:
            raise ValueError(f"expected a list of bench records in {path}: {error}") from error
    return records
