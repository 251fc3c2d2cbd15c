"""What belongs to whom: a process and its threads; the pages of two processes after a fork.

Chapter: course/10_processes.ipynb.
"""

from collections.abc import Collection

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from companion.checks import check_count

__all__ = ["draw_pages", "draw_process", "page_counts"]

BLUE, _, GREEN = sns.color_palette("colorblind")[:3]
GREY = "#e8ebf1"


def page_counts(pages: int, written: Collection[int]) -> tuple[int, float]:
    """Pages in memory, and each process's share of them, after a fork and a child's writes.

    Args:
        pages: Of each of the two address spaces.
        written: Numbers of the pages that the child has written to, from 0.

    Raises:
        TypeError, ValueError: There is no page, or none of such a number.

    Example:
        >>> page_counts(4, [3])  # three shared by two, and two of one owner each
        (5, 2.5)
    """
    check_count("pages", pages)
    for number in written:
        check_count("written", number, least=0, most=pages - 1)
    total = pages + len(set(written))
    return total, total / 2


def draw_process(threads: int = 2) -> Figure:
    """A box for the process with what its threads share, and in it a box for each thread."""
    check_count("threads", threads)
    figure, axes = _canvas((6.4, 2.3), width=3.4 + 2.2 * threads, height=3)
    _box(axes, 0, 0, 3.2 + 2.2 * threads, 3, color="white", edge="black")
    axes.text(0.15, 2.68, "process", weight="bold")
    _box(axes, 0.2, 0.2, 2.6, 2.3, "heap\n(all objects)\n\nopen files", color=GREY)
    for number in range(threads):
        left = 3.0 + 2.2 * number
        _box(axes, left, 0.2, 2.0, 2.3, color=(*BLUE, 0.12), edge=BLUE)
        axes.text(left + 1, 2.2, f"thread {number}", ha="center", color=BLUE, weight="bold")
        _box(axes, left + 0.2, 1.2, 1.6, 0.7, "stack", color="white", edge=BLUE)
        _box(axes, left + 0.2, 0.35, 1.6, 0.7, "position", color="white", edge=BLUE)
    return figure


def draw_pages(pages: int, written: Collection[int]) -> Figure:
    """Two tables of pages and the memory behind them: after a fork, and after the child's writes.

    Args:
        pages, written: As for ``page_counts``.
    """
    panels = {
        "after the fork": (),
        f"after the child wrote to {len(set(written))} of {pages}": written,
    }
    counts = [page_counts(pages, some)[0] for some in panels.values()]
    figure, both = plt.subplots(1, 2, figsize=(7.4, 0.42 * max(counts) + 1.1), layout="constrained")
    figure.get_layout_engine().set(wspace=0.12)
    for axes, (title, some) in zip(both, panels.items(), strict=True):
        _prepare(axes, width=7.4, height=max(counts) + 1)
        axes.set_title(title, fontsize="medium")
        _draw_tables(axes, pages, sorted(set(some)))
    return figure


def _draw_tables(axes: Axes, pages: int, written: list[int]) -> None:
    """The parent's table on the left, the memory in the middle, the child's on the right."""
    top = axes.get_ylim()[1] - 1
    for left, title in ((0, "parent's\ntable"), (2.9, "memory"), (5.8, "child's\ntable")):
        axes.text(left + 0.8, top + 0.15, title, ha="center", va="bottom", fontsize="small")
    for row in range(pages + len(written)):
        number = row if row < pages else written[row - pages]
        alone = BLUE if number in written else None
        owner = (*GREEN, 0.45) if row >= pages else (*alone, 0.35) if alone else GREY
        _box(axes, 2.9, top - row - 0.9, 1.6, 0.8, f"page {number}", color=owner)
    for number in range(pages):
        y = top - number - 0.5
        copy = top - (pages + written.index(number)) - 0.5 if number in written else y
        for left, start, end, behind in ((0, 1.6, 2.9, y), (5.8, 5.8, 4.5, copy)):
            _box(axes, left, y - 0.4, 1.6, 0.8, str(number), color="white", edge="black")
            arrow = {"arrowstyle": "->", "color": "black", "lw": 0.9}
            axes.annotate("", (end, behind), (start, y), arrowprops=arrow)


def _canvas(size: tuple[float, float], *, width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    _prepare(axes, width=width, height=height)
    return figure, axes


def _prepare(axes: Axes, *, width: float, height: float) -> None:
    axes.set(xlim=(-0.1, width + 0.1), ylim=(-0.1, height + 0.1))
    axes.set_axis_off()


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str = "",
    *,
    color: object,
    edge: object = "none",
) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor=edge))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize="small")
