"""Drawings of chapter 07: the branch beside a weight, NF4's codes, similarity, a rebuilt change.

Each takes what it draws and computes nothing that the chapter does not print.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from companion.lora.analysis import subspace_similarity_grid
from companion.lora.study.truncation import rebuilt

__all__ = ["draw_branch", "draw_codes", "draw_methods", "draw_rebuilt", "draw_similarity"]

_SHOWN = 64  # rows and columns of a change that are drawn: more would not be seen


def draw_branch(*, inputs: int, outputs: int, rank: int) -> Figure:
    """The frozen weight with its trained branch, as boxes to scale: a picture of one layer.

    Args:
        inputs, outputs, rank: I, O and R; R is drawn a little too wide, to be seen.
    """
    figure, axes = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    height, width, thin = 2.0 * outputs / inputs, 2.0, max(0.14, 2.0 * rank / inputs)
    low = -0.6 - height / 2  # the middle of the branch
    boxes = (
        (2.0, 0.6, width, height, "C7", f"W frozen\n{outputs} × {inputs}"),
        (2.0, low, width, thin, "C1", f"A  {rank} × {inputs}"),
        (5.2, low, thin, height, "C1", f"B  {outputs} × {rank}"),
    )
    for x, y, w, h, color, _ in boxes:
        axes.add_patch(Rectangle((x, y - h / 2), w, h, facecolor=color, edgecolor="k", alpha=0.5))
    axes.text(3.0, 0.6, boxes[0][5], ha="center", va="center")
    axes.text(3.0, low - 0.2, boxes[1][5], ha="center", va="top")
    axes.text(5.27, low - height / 2 - 0.08, boxes[2][5], ha="center", va="top")
    axes.text(4.55, low + 0.1, f"{rank} numbers", ha="center", va="bottom", size="small")
    axes.text(0.3, -0.5, "x", ha="center", va="center")
    axes.text(8.0, -0.5, "y", ha="center", va="center")
    axes.text(6.9, -0.5, "+", ha="center", va="center", size=16)
    axes.text(6.2, low + 0.1, "times s", ha="left", va="top", size="small")
    arrows = (
        ((0.45, -0.45), (1.95, 0.6)),
        ((0.45, -0.55), (1.95, low)),
        ((4.05, 0.6), (6.75, -0.4)),
        ((4.05, low), (5.15, low)),
        ((5.4, low), (6.75, -0.6)),
        ((7.05, -0.5), (7.85, -0.5)),
    )
    for start, end in arrows:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "black"})
    axes.set(xlim=(0, 8.3), ylim=(low - height / 2 - 0.45, 0.7 + height / 2), aspect="equal")
    axes.axis("off")
    return figure


def draw_codes(
    scaled_N: Float[Tensor, "N"], code_16: Float[Tensor, "16"], shares: Mapping[str, Sequence]
) -> Figure:
    """A histogram of weights divided by their block's absmax, over the codes; and their use.

    Args:
        scaled_N: The weights, in [−1, 1].
        code_16: The codes, marked on the axis of the weights.
        shares: Name of a code → how often each of its values is used, in per cent.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.0), layout="constrained")
    settings = {"bins": 80, "density": True, "color": "C7", "linewidth": 0}
    left.hist(scaled_N.numpy(), **settings, label="weights")
    left.vlines(code_16, 0, 0.25, color="C1", label="codes")
    left.set(xlabel="weight ÷ absmax of its block", ylabel="density", xlim=(-1.03, 1.03))
    for (name, values), mark in zip(shares.items(), "os", strict=True):
        right.plot(range(1, 17), values, mark + "-", markersize=5, label=name)
    right.axhline(100 / 16, color="gray", linestyle="--", label="equal use")
    right.set(xlabel="code, from −1 to 1", ylabel="weights that use it (%)", ylim=(0, None))
    right.set_xticks((1, 4, 8, 12, 16))
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure


def draw_methods(losses: Mapping[str, Sequence[float]], rates: Sequence[str]) -> Axes:
    """Loss of each method at every learning rate; the best of each is ringed.

    Args:
        losses: Method → held-out loss at each rate, in nats per token.
        rates: Labels of the rates.
    """
    _, axes = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
    rows = range(len(losses))
    for k, (rate, mark) in enumerate(zip(rates, "osD", strict=True)):
        axes.plot([values[k] for values in losses.values()], rows, mark, label=f"rate {rate}")
    best = [min(values) for values in losses.values()]
    ring = {"markersize": 13, "fillstyle": "none", "color": "black"}
    axes.plot(best, rows, "o", **ring, label="best of the three")
    axes.set(xlabel="held-out loss (nats per token)")
    axes.set_yticks(rows, labels=losses)
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.4)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return axes


def draw_similarity(
    a_RI: Float[Tensor, "R I"], others: Mapping[str, Float[Tensor, "_ I"]]
) -> dict[str, Float[Tensor, "R _"]]:
    """φ of one matrix with others for i, j ≤ R, side by side with equal axes; returns the grids.

    Args:
        a_RI: The matrix whose first i directions stand on the vertical axis.
        others: Title → matrix whose first j directions stand on the horizontal axis.
    """
    size = len(a_RI)
    grids = {
        title: subspace_similarity_grid(a_RI, other)[:, :size] for title, other in others.items()
    }
    figure, panels = plt.subplots(
        1, len(grids), figsize=(2.3 * len(grids) + 0.9, 2.9), layout="constrained", sharey=True
    )
    ticks = [2**n for n in range(size.bit_length()) if 2**n <= size]
    for axes, (title, grid) in zip(panels, grids.items(), strict=True):
        rows, columns = grid.shape
        extent = (0.5, columns + 0.5, rows + 0.5, 0.5)
        image = axes.imshow(grid, vmin=0, vmax=1, aspect="equal", cmap="viridis", extent=extent)
        axes.set(xlabel="first j directions", xticks=ticks, yticks=ticks)
        axes.set_title(title, fontsize="medium")
    panels[0].set(ylabel="first i directions")
    figure.colorbar(image, ax=panels, label="φ", shrink=0.8)
    return grids


def draw_rebuilt(
    delta_OI: Float[Tensor, "O I"],
    rank: int,
    losses: Mapping[int, float],
    bounds: tuple[float, float],
) -> Figure:
    """A change rebuilt from its ``rank`` largest directions, beside the loss at that rank.

    Args:
        delta_OI: The change; its first 64 rows and columns are shown.
        rank: Directions kept, one of ``losses``.
        losses: Rank → held-out loss in nats per token.
        bounds: The loss without the change, and with all of it.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.0), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    part = (slice(_SHOWN), slice(_SHOWN))
    limit = 2.5 * delta_OI.std().item()
    image = left.imshow(rebuilt(delta_OI, rank)[part], vmin=-limit, vmax=limit, cmap="RdBu")
    left.set(title="part of the change", xlabel="input", ylabel="output", xticks=(), yticks=())
    figure.colorbar(image, ax=left, shrink=0.7, label="change of a weight", format="%.3f")
    right.plot(list(losses), list(losses.values()), "o-", markersize=4, label="rebuilt change")
    ring = {"markersize": 11, "fillstyle": "none", "color": "black"}
    right.plot(rank, losses[rank], "o", **ring, label="shown here")
    right.axhline(bounds[0], color="gray", linestyle="--", label="untrained")
    right.axhline(bounds[1], color="gray", linestyle=":", label="whole change")
    right.set(xlabel="directions kept", ylabel="held-out loss (nats per token)")
    right.set_xscale("log", base=2)
    right.set_xticks(list(losses), labels=list(losses))
    right.minorticks_off()
    right.legend(frameon=False, fontsize="small")
    return figure
