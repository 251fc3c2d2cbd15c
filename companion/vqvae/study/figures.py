"""Drawings of chapter 03. Each takes what it draws and returns the matplotlib Figure.

Chapter: course/03_vqvae.ipynb.  Dimension key: N points, K codes, C channels.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from companion.vqvae.nearest import nearest_code

__all__ = [
    "draw_cells",
    "draw_images",
    "draw_rates",
    "draw_relaxed",
    "draw_repairs",
    "draw_vqvae",
]

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN = PALETTE[:3]
MARKERS = "osD^vP*X"  # tells series apart where colour does not


def draw_vqvae() -> Figure:
    """Encoder, nearest code, decoder; dashed, the gradients of the three terms of the loss."""
    figure, axes = plt.subplots(figsize=(8.6, 3.2), layout="constrained")
    boxes = {
        "image x": (0.0, 0.0, "white"),
        "encoder": (2.2, 0.0, ORANGE),
        "vector z": (4.4, 0.0, "white"),
        "code e\n(nearest to z)": (6.6, 0.0, BLUE),
        "decoder": (8.8, 0.0, GREEN),
        "image x̂": (11.0, 0.0, "white"),
        "codebook\n$e_1$ … $e_K$": (6.6, 1.6, BLUE),
    }
    for text, (x, y, color) in boxes.items():
        face = color if color == "white" else (*color, 0.35)
        axes.add_patch(
            FancyBboxPatch((x, y - 0.28), 1.6, 0.56, boxstyle="round,pad=0.1", fc=face, ec="0.3")
        )
        axes.text(x + 0.8, y, text, ha="center", va="center", fontsize=10)
    for left in (1.72, 3.92, 6.12, 8.32, 10.52):
        _arrow(axes, (left, 0.0), (left + 0.36, 0.0), "0.2", dashed=False)
    _arrow(axes, (7.4, 1.2), (7.4, 0.42), "0.2", dashed=False)
    _arrow(axes, (11.8, -0.42), (9.6, -0.42), GREEN, bend=-0.25)
    _arrow(axes, (9.5, -0.42), (5.2, -0.42), ORANGE, bend=-0.25)
    _arrow(axes, (5.1, -0.42), (3.0, -0.42), ORANGE, bend=-0.25)
    axes.text(7.4, -1.22, "copied past the choice", ha="center", color=ORANGE)
    _arrow(axes, (6.5, 0.4), (5.3, 0.4), ORANGE, bend=0.5)
    axes.text(5.4, 0.86, "commitment", ha="center", color=ORANGE)
    _arrow(axes, (8.3, 0.4), (8.3, 1.45), BLUE, bend=0.6)
    axes.text(8.9, 0.86, "codes follow z", color=BLUE)
    axes.set(xlim=(-0.2, 12.8), ylim=(-1.4, 2.1))
    axes.axis("off")
    return figure


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: object,
    *,
    bend: float = 0.0,
    dashed: bool = True,
) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "connectionstyle": f"arc3,rad={bend}"}
    line = {"linestyle": "--", "lw": 1.5} if dashed else {}
    axes.add_patch(FancyArrowPatch(start, end, color=color, **style, **line))


def draw_cells(
    panels: Mapping[str, Float[Tensor, "K 2"]],
    points: Float[Tensor, "N 2"],
    *,
    labels: tuple[str, str],
    zoom: float = 0.12,
) -> Figure:
    """Cells of each codebook in the unit square, over the points; unused codes are crosses.

    The corner that is enlarged at the upper left reaches from −zoom to zoom on both axes.
    """
    figure, row = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 4.2), layout="constrained", squeeze=False,
        sharex=True, sharey=True,
    )  # fmt: skip
    for axes, (title, codes) in zip(row[0], panels.items(), strict=True):
        _cells(axes, codes, points, (-0.15, 1.05))
        axes.set(title=title, xlabel=labels[0], xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        corner = axes.inset_axes((0.02, 0.53, 0.45, 0.45))
        _cells(corner, codes, points, (-zoom, zoom), side=101)
        corner.set(xticks=[-0.1, 0, 0.1], yticks=[])
        corner.tick_params(labelsize=7, length=2, pad=1)
        corner.spines[:].set(color=GREEN, lw=1.5)
        frame = Rectangle((-zoom, -zoom), 2 * zoom, 2 * zoom, fc="none", ec=GREEN, lw=1.5)
        axes.add_patch(frame)
    row[0, 0].set_ylabel(labels[1])
    handles = row[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _cells(
    axes: Axes,
    codes: Float[Tensor, "K 2"],
    points: Float[Tensor, "N 2"],
    limits: tuple[float, float],
    *,
    side: int = 221,
) -> None:
    places = torch.linspace(*limits, side)
    grid = torch.cartesian_prod(places, places).reshape(side, side, 2)
    cells = nearest_code(grid.to(codes.dtype), codes).T
    walls = (cells[1:, 1:] != cells[1:, :-1]) | (cells[1:, 1:] != cells[:-1, 1:])
    axes.scatter(*points.T, s=3, color=BLUE, alpha=0.3, lw=0)
    ink = np.zeros((*walls.shape, 4))
    ink[..., 3] = 0.55 * walls.numpy()
    axes.imshow(ink, origin="lower", extent=(*limits, *limits), interpolation="nearest")
    used = torch.bincount(nearest_code(points, codes), minlength=len(codes)) > 0
    axes.scatter(*codes[used].T, s=28, color=ORANGE, ec="0.2", lw=0.6, label="used code")
    axes.scatter(*codes[~used].T, s=30, color="0.2", marker="x", lw=1.2, label="unused code")
    axes.set(xlim=limits, ylim=limits, aspect="equal")


def draw_images(
    rows: Mapping[str, Float[Tensor, "N C H W"]],
    *,
    size: float = 0.9,
    titles: Sequence[str] = (),
) -> Figure:
    """One row of images for each name; grey where C = 1, values clipped to [0, 1].

    ``size`` is a panel's width in inches, ``titles`` stand over the columns.
    """
    columns = max(map(len, rows.values()))
    height, width = next(iter(rows.values())).shape[-2:]
    figure, panels = plt.subplots(
        len(rows), columns, figsize=(size * columns + 1.4, size * height / width * len(rows)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        pictures = images.detach().float().cpu().clamp(0, 1).movedim(1, -1).numpy()
        for axes, picture in zip(line, pictures, strict=False):
            picture = picture[..., 0] if picture.shape[-1] == 1 else picture
            axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
        line[0].text(
            -0.1, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9
        )
    for axes, title in zip(panels[0], titles, strict=False):
        axes.set_title(title, fontsize=9)
    for axes in panels.flat:
        axes.axis("off")
    return figure


def draw_relaxed(
    z: Float[Tensor, " N"],
    loss: Float[Tensor, " N"],
    smooth: Mapping[str, Float[Tensor, " N"]],
    slopes: Mapping[str, Float[Tensor, " N"]],
    *,
    edges: Sequence[float],
) -> Figure:
    """A loss after the choice and its smoothed versions (left), and the slopes (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
    left.plot(z, loss, color="0.3", lw=1.6, label="after the choice")
    for index, (name, values) in enumerate(smooth.items()):
        left.plot(z, values, ("--", ":")[index % 2], color=PALETTE[index], lw=1.8, label=name)
    for index, (name, values) in enumerate(slopes.items()):
        style = ("--", ":", "-")[index % 3]
        right.plot(z, values, style, color=PALETTE[index], lw=1.8, label=name)
    for axes, y in ((left, "loss"), (right, "slope of the loss")):
        for edge in edges:
            axes.axvline(edge, color="0.85", lw=0.8, zorder=0)
        axes.set(xlabel="encoder's output z", ylabel=y)
        axes.legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure


def draw_repairs(runs: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Share of codes in use and error of each run: a dot for a run, a row for a plan."""
    figure, panels = plt.subplots(
        1, 2, figsize=(8.6, 0.36 * len(runs) + 1.0), sharey=True, layout="constrained"
    )
    for column, (axes, label) in enumerate(
        zip(panels, ("share of codes in use", "mean squared error × 1000, held out"), strict=True)
    ):
        for line, (name, values) in enumerate(runs.items()):
            x = [value[column] * (1, 1000)[column] for value in values]
            axes.plot([min(x), max(x)], [line, line], color="0.7", lw=1)
            axes.plot(x, [line] * len(x), "o", ms=6, color=BLUE, alpha=0.8, label=name)
        axes.set(xlabel=label)
        axes.set_xlim(left=0)
        axes.grid(axis="y", color="0.92")
    panels[0].set(yticks=range(len(runs)), yticklabels=list(runs))
    panels[0].invert_yaxis()
    sns.despine(figure)
    return figure


def draw_rates(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Error against rate: each point is (bits, error); a dotted line at each level."""
    figure, axes = plt.subplots(figsize=(6.6, 3.8), layout="constrained")
    for index, (name, points) in enumerate(series.items()):
        line = ("-" if len(points) > 1 else "") + MARKERS[index]
        # Hollow, so that a marker does not hide the one below it.
        axes.plot(
            *zip(*points, strict=True), line, color=PALETTE[index], lw=1.2, mfc="none", mew=1.5,
            label=name,
        )  # fmt: skip
    for name, level in (levels or {}).items():
        axes.axhline(level, color="0.5", lw=1, ls=":", label=name)
    axes.set(xlabel="bits per tile", ylabel="mean squared error, held out")
    axes.set_xticks(sorted({bits for points in series.values() for bits, _ in points}))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    sns.despine(figure)
    return figure
