"""The ring drawn step by step: the frames of an explorable.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, and as many chunks.
"""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from companion.checks import check_count
from companion.collectives.study.ring_states import RingState, ring_steps

__all__ = ["RingFrames"]

COLORS = sns.color_palette("colorblind")
MOST = 8
_RADIUS = 0.2  # of a rank's disc, on a circle of radius 1
_CELL = 0.92  # side of a cell, in a grid of step 1


class RingFrames:
    """A ring all-reduce as pictures, one after each step, for one or several P.

    An arrow has the colour and the number of the chunk that it carries. In the table, a cell fills
    from below as summands arrive; its number says how many there are, bold where one came in this
    step. A cell with a black border holds the finished sum.

    Fields:
        values: (P, step) of each frame, for ``companion.explore.frames``.

    Args:
        counts: Which P, each in [2, 8].

    Raises:
        TypeError, ValueError: A count is not an integer in [2, 8], or there are none.

    Example:
        >>> ring = RingFrames([2])
        >>> [ring.show(value) for value in ring.values]
        ['2, start', '2, reduce-scatter, step 1 of 1', '2, all-gather, step 1 of 1']
    """

    def __init__(self, counts: Sequence[int]) -> None:
        for ranks in counts:
            check_count("ranks", ranks)
            if not 2 <= ranks <= MOST:
                raise ValueError(f"ranks must be in [2, {MOST}], got {ranks}")
        if not counts:
            raise ValueError("expected at least one number of ranks, got none")
        self._states = {ranks: ring_steps(ranks) for ranks in counts}
        self.values = [(p, state.step) for p, states in self._states.items() for state in states]

    def state(self, value: tuple[int, int]) -> RingState:
        """The state after that step."""
        ranks, step = value
        return self._states[ranks][step]

    def show(self, value: tuple[int, int]) -> str:
        """P, phase and step, as written above a frame."""
        ranks, step = value
        if step == 0:
            return f"{ranks}, start"
        within = (step - 1) % (ranks - 1) + 1
        return f"{ranks}, {self.state(value).phase}, step {within} of {ranks - 1}"

    def draw(self, value: tuple[int, int]) -> Figure:
        """Left: ranks on a circle, and what this step sent. Right: the chunks that they hold."""
        state = self.state(value)
        figure, (ring, table) = plt.subplots(1, 2, figsize=(4.0, 2.0))
        _draw_ring(ring, state)
        _draw_table(table, state)
        figure.subplots_adjust(0.0, 0.01, 0.99, 0.9, wspace=0.2)
        return figure

    def describe(self, value: tuple[int, int]) -> str:
        """What the frame shows, in words."""
        state, ranks = self.state(value), value[0]
        if not state.moves:
            return f"{ranks} ranks on a circle; each has {ranks} chunks of its own numbers alone."
        every = set(range(ranks))
        finished = sum(sum_ == every for sum_ in state.held[0])
        sent = ", ".join(f"chunk {m.chunk} from {m.src} to {m.dst}" for m in state.moves)
        verb = "adds" if state.phase == "reduce-scatter" else "stores"
        count = len(state.held[state.moves[0].dst][state.moves[0].chunk])
        return (
            f"{ranks} ranks on a circle. Sent: {sent}. The receiver {verb} it and then holds the "
            f"sum of {count} ranks there. Each rank has finished {finished} of its {ranks} chunks."
        )


def _draw_ring(axes: Axes, state: RingState) -> None:
    ranks = len(state.held)
    # Clockwise from the top.
    angles = [math.pi / 2 - 2 * math.pi * rank / ranks for rank in range(ranks)]
    places = [(math.cos(angle), math.sin(angle)) for angle in angles]
    for src, dst, chunk in state.moves:
        _draw_move(axes, places[src], places[dst], chunk, bend=0.5 if ranks == 2 else 0.25)
    for rank, (x, y) in enumerate(places):
        axes.add_patch(Circle((x, y), _RADIUS, fc="white", ec="0.3", lw=1, zorder=3))
        axes.text(x, y, str(rank), ha="center", va="center", fontsize=8, zorder=4)
    axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    axes.axis("off")


def _draw_move(axes: Axes, tail: tuple, head: tuple, chunk: int, *, bend: float) -> None:
    arrow = FancyArrowPatch(
        tail,
        head,
        connectionstyle=f"arc3,rad={-bend}",
        arrowstyle="-|>",
        mutation_scale=9,
        shrinkA=7,
        shrinkB=7,
        color=COLORS[chunk],
        lw=1.8,
    )
    axes.add_patch(arrow)
    # The chunk's number, outside the middle of the bow: to the left of the way.
    (x0, y0), (x1, y1) = tail, head
    out = bend / 2 + 0.16 / math.dist(tail, head)
    x, y = (x0 + x1) / 2 - out * (y1 - y0), (y0 + y1) / 2 + out * (x1 - x0)
    axes.text(x, y, str(chunk), ha="center", va="center", fontsize=7)


def _draw_table(axes: Axes, state: RingState) -> None:
    """One row for each rank, one column for each chunk; row 0 is the highest."""
    ranks = len(state.held)
    arrived = {(move.dst, move.chunk) for move in state.moves}
    for rank in range(ranks):
        for chunk in range(ranks):
            bold = (rank, chunk) in arrived
            _draw_cell(axes, (chunk, -rank), len(state.held[rank][chunk]), ranks, bold=bold)
        axes.text(-0.12, 0.4 - rank, f"rank {rank}", ha="right", va="center", fontsize=7)
        axes.text(rank + 0.46, 1.04, str(rank), ha="center", fontsize=7)
    axes.set(xlim=(-0.04, ranks), ylim=(0.96 - ranks, 0.96))
    axes.text(-0.12, 1.04, "chunk", ha="right", fontsize=7)
    axes.axis("off")


def _draw_cell(axes: Axes, corner: tuple, count: int, ranks: int, *, bold: bool) -> None:
    chunk, finished = corner[0], count == ranks
    rise = _CELL * count / ranks
    axes.add_patch(Rectangle(corner, _CELL, _CELL, fc="white", ec="0.7", lw=0.5))
    axes.add_patch(Rectangle(corner, _CELL, rise, fc=COLORS[chunk], alpha=0.7, lw=0))
    if finished:
        axes.add_patch(Rectangle(corner, _CELL, _CELL, fc="none", ec="black", lw=1.2, zorder=3))
    axes.text(
        corner[0] + _CELL / 2,
        corner[1] + _CELL / 2 - 0.03,
        str(count),
        ha="center",
        va="center",
        fontsize=7,
        fontweight="bold" if bold else "normal",
    )
