"""Records as text: one line each, for the terminal and for the page of results."""

from collections.abc import Sequence

from companion.bench.records import Record

__all__ = ["HEADINGS", "cells", "terminal_table"]

HEADINGS = ("workload", "peer", "ours", "peer's", "ratio", "bar", "result")


def cells(record: Record) -> tuple[str, ...]:
    """The words of one line, in the order of ``HEADINGS``."""
    return (
        record.workload + _over(record),
        record.peer,
        _time(record.ours_s, record.ours_range_s) + _rate(record, record.ours_s),
        _time(record.peer_s, record.peer_range_s) + _rate(record, record.peer_s),
        "–" if record.ratio is None else f"{record.ratio:.2f}×",
        _bar(record) or "–",
        _result(record),
    )


def terminal_table(records: Sequence[Record]) -> str:
    """Aligned columns under their headings."""
    rows = [HEADINGS, *map(cells, records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("─" * width for width in widths))
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def _time(median: float | None, spread: tuple[float, float] | None) -> str:
    """Median and, if kept, fastest and slowest round, in one unit: 1.23 ms (1.20–1.31)."""
    if median is None:
        return "–"
    scale, unit = _unit(median)
    if spread is None:
        return f"{_digits(median * scale)} {unit}"
    low, high = (_digits(second * scale) for second in spread)
    return f"{_digits(median * scale)} {unit} ({low}–{high})"


def _rate(record: Record, seconds: float | None) -> str:
    """Work per second, in the largest unit of which there is at least one: 312 TFLOP/s."""
    if record.work is None or not seconds:
        return ""
    rate = record.work / seconds
    prefixes = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, ""))
    size, prefix = next((pair for pair in prefixes if rate >= pair[0]), prefixes[-1])
    return f", {_digits(rate / size)} {prefix}{record.work_unit}/s"


def _over(record: Record) -> str:
    """What the times are beyond, if they are overheads."""
    if record.baseline_s is None:
        return ""
    scale, unit = _unit(record.baseline_s)
    return f" (overhead over {_digits(record.baseline_s * scale)} {unit})"


def _unit(seconds: float) -> tuple[float, str]:
    """The largest unit of which there is at least one."""
    units = ((1, "s"), (1e3, "ms"), (1e6, "µs"))
    return next((unit for unit in units if seconds * unit[0] >= 1), units[-1])


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _bar(record: Record) -> str:
    """All that was promised: ≥ 1×, ≤ 1.1×, ≤ 6 s."""
    promises = (
        ("≥ {:g}×", record.bar),
        ("≤ {:g}×", record.ceiling),
        ("≤ {:g} s", record.limit_s),
    )
    return ", ".join(text.format(value) for text, value in promises if value is not None)


def _result(record: Record) -> str:
    if not record.equal:
        return "results differ"
    if not _bar(record):
        return "reported"
    return "passed" if record.passed else "missed"
