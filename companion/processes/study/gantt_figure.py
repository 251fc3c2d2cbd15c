"""Who worked when: one row for each worker, one bar for each task; and the same in words.

Chapter: course/10_processes.ipynb.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.processes.spans import Span

__all__ = ["describe_gantt", "draw_gantt"]

PALETTE = sns.color_palette("colorblind")


def draw_gantt(panels: Mapping[str, Sequence[Span]]) -> Figure:
    """Timelines below each other, on one scale; each begins with its first task.

    Args:
        panels: Title → spans, at least one each.

    Raises:
        ValueError: There are no panels, or one has no spans.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    heights = [len(_rows(spans)) + 0.8 for spans in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        figsize=(7.2, 0.36 * sum(heights) + 0.5),
        height_ratios=heights,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, spans) in zip(axes[:, 0], panels.items(), strict=True):
        _draw(axis, _rows(spans), min(span.start_s for span in spans))
        axis.set_title(title, loc="left", fontsize="medium")
    axes[-1, 0].set_xlabel("time (ms)")
    return figure


def _rows(spans: Sequence[Span]) -> dict[int, list[Span]]:
    """The spans of each worker, in order of time."""
    if not spans:
        raise ValueError("expected at least one span, got none")
    workers = sorted({span.worker for span in spans})
    ordered = sorted(spans, key=lambda span: span.start_s)
    return {worker: [s for s in ordered if s.worker == worker] for worker in workers}


def _draw(axis: Axes, rows: Mapping[int, Sequence[Span]], start_s: float) -> None:
    for row, spans in enumerate(rows.values()):
        bars = [(1e3 * (s.start_s - start_s), 1e3 * (s.end_s - s.start_s)) for s in spans]
        color = PALETTE[row % len(PALETTE)]
        axis.broken_barh(bars, (row - 0.4, 0.8), facecolor=color, edgecolor="white", lw=0.8)
    labels = [f"worker {worker}" for worker in rows]
    axis.set_yticks(range(len(rows)), labels=labels)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    sns.despine(ax=axis, left=True)
    axis.tick_params(left=False)


def describe_gantt(spans: Sequence[Span]) -> str:
    """The timeline in words.

    Args:
        spans: At least one.

    Raises:
        ValueError: There are none.

    Example:
        >>> describe_gantt([Span(0, 0, 1.0, 1.3), Span(1, 1, 1.0, 1.2), Span(1, 2, 1.2, 1.4)])
        '3 tasks on 2 workers in 400 ms; busy for 75 %, 100 % of it'
    """
    rows = _rows(spans)
    total_s = max(s.end_s for s in spans) - min(s.start_s for s in spans)
    busy = (sum(s.end_s - s.start_s for s in row) / (total_s or 1.0) for row in rows.values())
    shares = ", ".join(f"{100 * share:.0f} %" for share in busy)
    return (
        f"{len(spans)} tasks on {len(rows)} workers in {1e3 * total_s:.0f} ms; "
        f"busy for {shares} of it"
    )
