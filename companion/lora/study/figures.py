"""Drawings of chapter 07: similarity of subspaces, and a change rebuilt from few directions.

Each takes what it draws and computes nothing that the chapter does not print.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from companion.lora.analysis import subspace_similarity_grid
from companion.lora.study.truncation import rebuilt

__all__ = ["draw_rebuilt", "draw_similarity"]

_SHOWN = 64  # rows and columns of a change that are drawn: more would not be seen


def draw_similarity(
    a_RI: Float[Tensor, "R I"], others: Mapping[str, Float[Tensor, "_ I"]]
) -> dict[str, Float[Tensor, "R _"]]:
    """φ of one matrix with others for all i and j, side by side; returns the grids drawn.

    Args:
        a_RI: The matrix whose first i directions stand on the vertical axis.
        others: Title → matrix whose first j directions stand on the horizontal axis.
    """
    grids = {title: subspace_similarity_grid(a_RI, other) for title, other in others.items()}
    figure, panels = plt.subplots(
        1, len(grids), figsize=(2.6 * len(grids) + 0.8, 3.0), layout="constrained"
    )
    for axes, (title, grid) in zip(panels, grids.items(), strict=True):
        rows, columns = grid.shape
        extent = (0.5, columns + 0.5, rows + 0.5, 0.5)
        image = axes.imshow(grid, vmin=0, vmax=1, aspect="auto", cmap="viridis", extent=extent)
        axes.set(title=title, xlabel="first j directions", xticks=(1, columns // 2, columns))
    panels[0].set(ylabel="first i directions, R = 8")
    figure.colorbar(image, ax=panels, label="φ")
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
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 2.9), layout="constrained")
    part = (slice(_SHOWN), slice(_SHOWN))
    limit = 2.5 * delta_OI.std().item()
    left.imshow(rebuilt(delta_OI, rank)[part], vmin=-limit, vmax=limit, cmap="RdBu")
    left.set(title="part of the change", xlabel="input", ylabel="output", xticks=(), yticks=())
    right.plot(list(losses), list(losses.values()), "o-", markersize=4)
    right.plot(rank, losses[rank], "o", markersize=11, fillstyle="none", color="black")
    right.axhline(bounds[0], color="gray", linestyle="--", label="untrained")
    right.axhline(bounds[1], color="gray", linestyle=":", label="whole change")
    right.set(xscale="log", xlabel="directions kept", ylabel="held-out loss (nats)", xticks=())
    right.set_xticks(list(losses), labels=list(losses))
    right.minorticks_off()
    right.legend(frameon=False)
    return figure
