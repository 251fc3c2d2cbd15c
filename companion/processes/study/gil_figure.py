"""A picture of the interpreter's lock going round, and the same in words.

Chapter: course/10_processes.ipynb.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from companion.processes.study.gil_spans import GilSpan

__all__ = ["GilTurns", "describe_gil", "draw_gil", "gil_turns"]

PALETTE = sns.color_palette("colorblind")


class GilTurns(NamedTuple):
    """A timeline in numbers.

    Fields:
        turns: How often the lock came to another thread, and the first turn.
        median_s: Length of a turn.
        shares: For each thread, its part of all the time that somebody ran.
    """

    turns: int
    median_s: float
    shares: tuple[float, ...]


def gil_turns(spans: Sequence[GilSpan]) -> GilTurns:
    """Join the spans that one thread had without another in between, and count.

    Args:
        spans: From ``companion.processes.study.gil_spans.gil_timeline``, at least one.

    Raises:
        ValueError: There are none.

    Example:
        >>> spans = [GilSpan(0, 0.0, 1.0), GilSpan(0, 1.5, 3.0), GilSpan(1, 3.0, 4.0)]
        >>> gil_turns(spans)
        GilTurns(turns=2, median_s=2.0, shares=(0.714..., 0.285...))
    """
    if not spans:
        raise ValueError("expected at least one span, got none")
    turns: list[list[GilSpan]] = []
    for span in spans:
        if turns and turns[-1][0].worker == span.worker:
            turns[-1].append(span)
        else:
            turns.append([span])
    ran = [0.0] * (1 + max(span.worker for span in spans))
    for span in spans:
        ran[span.worker] += span.end_s - span.start_s
    lengths = [turn[-1].end_s - turn[0].start_s for turn in turns]
    total = sum(ran) or 1.0
    return GilTurns(len(turns), statistics.median(lengths), tuple(part / total for part in ran))


def draw_gil(spans: Sequence[GilSpan], *, switch_interval_s: float) -> Figure:
    """One row for each thread, with a stripe wherever it ran.

    Args:
        spans: From ``companion.processes.study.gil_spans.gil_timeline``, at least one.
        switch_interval_s: That of the run; drawn as a bar for comparison.

    Raises:
        ValueError: There are no spans.
    """
    turns = gil_turns(spans)
    workers = len(turns.shares)
    figure, axes = plt.subplots(figsize=(7.2, 0.5 * workers + 1.3), layout="constrained")
    for worker in range(workers):
        stripes = [
            (1e3 * span.start_s, 1e3 * (span.end_s - span.start_s))
            for span in spans
            if span.worker == worker
        ]
        axes.broken_barh(stripes, (worker - 0.4, 0.8), color=PALETTE[worker % len(PALETTE)], lw=0)
    interval_ms = 1e3 * switch_interval_s
    axes.plot([0, interval_ms], [-0.75, -0.75], color="black", lw=3, solid_capstyle="butt")
    axes.text(interval_ms, -0.75, "  switch interval", va="center", fontsize="small")
    end_ms = 1e3 * max(span.end_s for span in spans)
    axes.set_yticks(range(workers), labels=[f"thread {worker}" for worker in range(workers)])
    axes.set(xlim=(0, max(end_ms, interval_ms)), ylim=(workers - 0.4, -1.1), xlabel="time (ms)")
    axes.set_title(f"{turns.turns} turns", loc="left", fontsize="medium")
    sns.despine(ax=axes, left=True)
    axes.tick_params(left=False)
    return figure


def describe_gil(spans: Sequence[GilSpan], *, switch_interval_s: float) -> str:
    """The same in words.

    Args:
        spans, switch_interval_s: As for ``draw_gil``.

    Raises:
        ValueError: There are no spans.

    Example:
        >>> spans = [GilSpan(0, 0.0, 0.005), GilSpan(1, 0.005, 0.01)]
        >>> describe_gil(spans, switch_interval_s=0.005)
        'Over 10 ms, 2 threads take 2 turns, of 5 ms in the median; the switch interval is 5 ms.
        Each ran for 50 %, 50 % of the time in which one of them ran.'
    """
    turns, end_s = gil_turns(spans), max(span.end_s for span in spans)
    shares = ", ".join(f"{share:.0%}".replace("%", " %") for share in turns.shares)
    return (
        f"Over {1e3 * end_s:.0f} ms, {len(turns.shares)} threads take {turns.turns} turns, of "
        f"{1e3 * turns.median_s:.2g} ms in the median; the switch interval is "
        f"{1e3 * switch_interval_s:g} ms. Each ran for {shares} of the time in which one of them "
        "ran."
    )
