"""One row of scores, consumed tile by tile: the frames of an explorable.

Chapter: course/09_flash.ipynb.  Dimension key: S keys of the row.
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from companion.flash.online import online_softmax
from companion.flash.study.figures import BLUE, GREY, ORANGE, PALE

__all__ = ["RowByTiles"]


@dataclass(frozen=True)
class RowByTiles:
    """One row of scores consumed tile by tile: the frames of an explorable.

    Frame 0 is before the first tile; each further frame has taken one more.

    Fields:
        scores_S: The scores of one query.
        values_S2: The values, two numbers each, so that the output is a point in the plane.
        block: Scores in a tile; the last may be shorter.

    Example:
        >>> import torch
        >>> row = RowByTiles(torch.tensor([0.0, 1.0, 3.0]), torch.eye(3)[:, :2], block=2)
        >>> row.steps
        range(0, 3)
        >>> row.after(1)  # m, d and O: two of the three scores were seen
        (1.0, 1.36..., [0.26..., 0.73...])
    """

    scores_S: Float[Tensor, " S"]
    values_S2: Float[Tensor, "S 2"]
    block: int

    @property
    def steps(self) -> range:
        """Values for ``companion.explore.frames``."""
        return range(len(self.scores_S.split(self.block)) + 1)

    def after(self, step: int) -> tuple[float, float, list[float]]:
        """m, d, and O: the output if the row ended there (0 before the first tile)."""
        if step == 0:
            return float("-inf"), 0.0, [0.0, 0.0]
        seen = slice(step * self.block)
        weights_S, trace = online_softmax(self.scores_S[seen], block=self.block)
        out_2 = weights_S @ self.values_S2[seen]
        return trace.m[-1].item(), trace.d[-1].item(), out_2.tolist()

    def draw(self, step: int) -> Figure:
        """Scores on the left; on the right the values, and the way of O to the output."""
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(7.2, 3.1), width_ratios=[3, 2], layout="constrained"
        )
        m, d, _ = self.after(step)
        shown_m = "−∞" if step == 0 else f"{m:.2f}".replace("-", "−")
        figure.suptitle(f"m = {shown_m},   d = {d:.2f}")
        self._draw_scores(left, step, m)
        self._draw_output(right, step)
        return figure

    def describe(self, step: int) -> str:
        """What the frame shows, in words."""
        m, d, (x, y) = self.after(step)
        seen, total = min(step * self.block, len(self.scores_S)), len(self.scores_S)
        if step == 0:
            return (
                f"{total} unseen scores as pale bars. The running maximum m is minus infinity, the "
                "running sum d is 0, and the output O stands at the origin."
            )
        return (
            f"Bars: {seen} of {total} scores seen, those of tile {step} highlighted. The running "
            f"maximum m is {m:.2f} and the running sum d is {d:.2f}. The output of the keys seen "
            f"so far is the point ({x:.2f}, {y:.2f})"
            + (", where the cross marks the final output." if seen == total else ".")
        )

    def _draw_scores(self, axes: Axes, step: int, m: float) -> None:
        keys = np.arange(len(self.scores_S))
        tile = keys // self.block
        colors = [ORANGE if t == step - 1 else BLUE if t < step else PALE for t in tile]
        edges = ["black" if t == step - 1 else "none" for t in tile]
        axes.bar(keys, self.scores_S.tolist(), color=colors, edgecolor=edges)
        axes.axhline(0, color=GREY, lw=0.8)
        if step:
            axes.axhline(m, color="black", ls="--", lw=1.2)
            axes.annotate("m", (keys[-1] + 0.7, m), va="bottom", ha="right")
        low, high = self.scores_S.min().item(), self.scores_S.max().item()
        margin = 0.15 * (high - low) + 0.1
        axes.set(xlabel="key j", ylabel="score", ylim=(min(low, 0) - margin, max(high, 0) + margin))
        axes.set_xticks(keys[:: max(1, self.block)])
        labels = {"seen": BLUE, "this tile": ORANGE, "not yet seen": PALE}
        handles = [Patch(color=color, label=label) for label, color in labels.items()]
        axes.legend(
            handles=handles,
            frameon=False,
            fontsize="small",
            ncols=3,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            handlelength=1.2,
            columnspacing=1.2,
        )

    def _draw_output(self, axes: Axes, step: int) -> None:
        values = self.values_S2.numpy()
        seen = np.arange(len(values)) < step * self.block
        axes.scatter(*values[~seen].T, s=18, color=PALE)
        axes.scatter(*values[seen].T, s=18, color=BLUE, alpha=0.7, label="v seen")
        path = np.array([self.after(past)[2] for past in range(step + 1)])
        axes.plot(*path.T, "-", color=ORANGE, lw=1.5)
        axes.plot(*path[-1], "o", color=ORANGE, mec="black", ms=8, label="O")
        target = self.after(self.steps[-1])[2]
        axes.plot(*target, "x", color="black", ms=9, mew=2, label="output")
        axes.set(xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
        axes.set_adjustable("datalim")  # the panel keeps its size
        axes.legend(
            frameon=False,
            fontsize="small",
            ncols=3,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            handlelength=0.8,
            columnspacing=0.8,
            handletextpad=0.4,
        )
