"""The drawing of a deadlock: threads and locks in a ring.

Chapter: course/10_processes.ipynb.
"""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

if TYPE_CHECKING:
    from companion.processes.wait_graph import WaitGraph

__all__ = ["draw_wait_graph"]

BLUE, ORANGE = sns.color_palette("colorblind")[:2]
_RADIUS = 1.0


def draw_wait_graph(graph: "WaitGraph") -> Figure:
    """The ring of a deadlock: a box per thread and per lock, an arrow for what each depends on.

    Args:
        graph: What ``find_deadlock`` returns.

    Returns:
        A figure; the arrows go clockwise and begin at the top.
    """
    size = len(graph.cycle)
    figure, axes = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    turn = 2 * np.pi * np.arange(size) / size
    # Wider than high: the names lie flat.
    places = np.column_stack([1.6 * _RADIUS * np.sin(turn), _RADIUS * np.cos(turn)])
    boxes = [_draw_box(axes, places[n], name, n % 2 == 0) for n, name in enumerate(graph.cycle)]
    for number in range(size):
        after = (number + 1) % size
        words = "waits for" if number % 2 == 0 else "is held by"
        _draw_arrow(axes, places[number], places[after], words, boxes[number], boxes[after])
    axes.set(xlim=(-2.4, 2.4), ylim=(-1.35, 1.35))
    axes.axis("off")
    return figure


def _draw_box(axes: Axes, place: np.ndarray, name: str, thread: bool) -> Patch:
    look = {"fc": BLUE, "ec": BLUE} if thread else {"fc": "white", "ec": ORANGE}
    text = axes.text(
        *place,
        name if thread else f"lock {name}",
        ha="center",
        va="center",
        color="white" if thread else "black",
        bbox={"boxstyle": "round,pad=0.6" if thread else "square,pad=0.6", "lw": 2, **look},
    )
    return text.get_bbox_patch()


def _draw_arrow(
    axes: Axes, tail: np.ndarray, head: np.ndarray, words: str, begin: Patch, end: Patch
) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 18, "lw": 2, "color": "0.35"}
    edges = {"patchA": begin, "patchB": end, "shrinkA": 2, "shrinkB": 3}  # from box to box
    bend = {"connectionstyle": "arc3,rad=-0.15"}
    axes.annotate("", head, tail, arrowprops={**look, **edges, **bend})
    axes.text(
        *(1.32 * (tail + head) / 2),
        words,
        ha="center",
        va="center",
        fontsize="small",
        color="0.25",
        bbox={"fc": "white", "ec": "none", "pad": 1.5},
    )
