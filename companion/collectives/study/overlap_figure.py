"""The two schedules of a backward pass, one above the other: a drawing, and it in words.

Chapter: course/11_collectives.ipynb.
"""

from matplotlib.figure import Figure

from companion.collectives.study.figures import draw_timeline
from companion.collectives.study.overlap import OverlapMeasurement

__all__ = ["describe_overlap", "draw_overlap", "overlap_rows"]


def overlap_rows(measured: OverlapMeasurement) -> dict[str, list[tuple[str, float, float]]]:
    """Rows for ``draw_timeline``: what each schedule computes, and what it sends.

    Example:
        >>> from companion.collectives.backward.during_backward import BucketSpan
        >>> spans = [BucketSpan("compute", 0, 0.0, 2.0), BucketSpan("reduce", 0, 2.0, 3.0)]
        >>> overlap_rows(OverlapMeasurement(3.0, 3.0, spans, spans))["overlapped: reduce"]
        [('reduce', 2.0, 3.0)]
    """
    schedules = {"in turn": measured.serial_spans, "overlapped": measured.overlapped_spans}
    return {
        f"{schedule}: {kind}": [(kind, s.start_s, s.end_s) for s in spans if s.kind == kind]
        for schedule, spans in schedules.items()
        for kind in ("compute", "reduce")
    }


def draw_overlap(measured: OverlapMeasurement) -> Figure:
    """Four rows of bars: computing and sending, in turn and overlapped.

    Args:
        measured: One rank's answer of ``measure_overlap``.
    """
    return draw_timeline(overlap_rows(measured))


def describe_overlap(measured: OverlapMeasurement) -> str:
    """The drawing in words, with its numbers.

    Example:
        >>> from companion.collectives.backward.during_backward import BucketSpan
        >>> serial = [BucketSpan("compute", 0, 0.0, 0.2), BucketSpan("reduce", 0, 0.2, 0.4)]
        >>> halves = [BucketSpan("compute", 0, 0.0, 0.1), BucketSpan("compute", 1, 0.1, 0.2)]
        >>> halves += [BucketSpan("reduce", 0, 0.1, 0.2), BucketSpan("reduce", 1, 0.2, 0.3)]
        >>> print(describe_overlap(OverlapMeasurement(0.4, 0.3, serial, halves)))
        In turn: computes for 200 ms, then sends until 400 ms.
        Overlapped, 2 buckets: computes for 200 ms, sends from 100 ms until 300 ms.
        0.75 of the time in turn; 100 ms are left to wait for after the computing.
    """
    turn, overlapped = (
        [[1e3 * edge for _, *span in rows for edge in span] for rows in pair]
        for pair in _pairs(measured)
    )
    count = len(overlapped[1]) // 2
    left_ms = overlapped[1][-1] - overlapped[0][-1]
    return (
        f"In turn: computes for {turn[0][-1]:.0f} ms, then sends until {turn[1][-1]:.0f} ms.\n"
        f"Overlapped, {count} buckets: computes for {overlapped[0][-1]:.0f} ms, "
        f"sends from {overlapped[1][0]:.0f} ms until {overlapped[1][-1]:.0f} ms.\n"
        f"{measured.ratio:.2f} of the time in turn; {left_ms:.0f} ms are left to wait for "
        "after the computing."
    )


def _pairs(measured: OverlapMeasurement) -> list[list[list[tuple[str, float, float]]]]:
    """For each schedule its computing and its sending."""
    rows = list(overlap_rows(measured).values())
    return [rows[:2], rows[2:]]
