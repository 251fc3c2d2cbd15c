"""Drawings of chapter 01. Each takes what it draws and returns the matplotlib Figure.

Chapter: course/01_gan.ipynb.  Dimension key: N samples, C classes.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from torch import Tensor

__all__ = [
    "draw_class_grid",
    "draw_curves",
    "draw_field",
    "draw_game",
    "draw_games",
    "draw_paths",
    "draw_rings",
]

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN = PALETTE[:3]
GREY = "0.45"
STYLES = ("-", "--", ":", "-.")  # tells lines apart where colour does not


def draw_game() -> Figure:
    """The two networks: what goes forward, and whose gradient reaches whom."""
    figure, axes = plt.subplots(figsize=(8.2, 3.3), layout="constrained")
    boxes = {
        "noise z": (0.0, 0.0, "white"),
        "generator G": (2.2, 0.0, ORANGE),
        "fake G(z)": (4.6, 0.0, "white"),
        "real x": (4.6, 1.5, "white"),
        "discriminator D": (7.1, 0.75, BLUE),
        "real or fake?": (9.7, 0.75, "white"),
    }
    for text, (x, y, color) in boxes.items():
        face = (*color, 0.35) if color != "white" else color
        corner = FancyBboxPatch(
            (x, y - 0.26), 1.7, 0.52, boxstyle="round,pad=0.1", fc=face, ec="0.3"
        )
        axes.add_patch(corner)
        axes.text(x + 0.85, y, text, ha="center", va="center", fontsize=10)
    for start, end in (
        ((1.76, 0.0), (2.14, 0.0)),
        ((3.96, 0.0), (4.54, 0.0)),
        ((6.36, 0.1), (7.04, 0.6)),
        ((6.36, 1.4), (7.04, 0.9)),
        ((8.86, 0.75), (9.64, 0.75)),
    ):
        axes.add_patch(
            FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color="0.2")
        )
    _gradient(axes, (10.55, 1.12), (7.95, 1.12), BLUE, 0.35)
    axes.text(9.3, 1.75, "D's step: this far", ha="center", color=BLUE)
    for start, end in (
        ((10.55, 0.38), (8.2, 0.38)),
        ((7.5, 0.38), (5.6, -0.36)),
        ((5.2, -0.36), (3.05, -0.36)),
    ):
        _gradient(axes, start, end, ORANGE, -0.35)
    axes.text(
        6.6, -1.05, "G's step: back through D and the fake, into G", ha="center", color=ORANGE
    )
    axes.set(xlim=(-0.2, 11.6), ylim=(-1.35, 2.0))
    axes.axis("off")
    return figure


def _gradient(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: tuple, bend: float
) -> None:
    arrow = {"arrowstyle": "-|>", "mutation_scale": 13, "linestyle": "--", "lw": 1.4}
    style = f"arc3,rad={bend}"
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=style, color=color, **arrow))


def draw_paths(paths: Mapping[str, Float[Tensor, "N 2"]]) -> Figure:
    """Paths of a game in the plane of its two numbers, one panel each; a dot where they start."""
    figure, panels = plt.subplots(
        1, len(paths), figsize=(2.9 * len(paths), 3.1), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes, (title, path) in zip(panels[0], paths.items(), strict=True):
        axes.plot(*path.T, color=BLUE, lw=0.9)
        axes.plot(*path[0], "o", color=ORANGE, ms=6)
        axes.plot(0, 0, "k+", ms=9)
        axes.set(title=title, aspect="equal", xlabel="a (generator)")
    panels[0, 0].set_ylabel("b (discriminator)")
    return figure


def draw_curves(
    x: Sequence[float] | Tensor,
    curves: Mapping[str, Sequence[float] | Tensor],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
) -> Figure:
    """Several curves over one axis."""
    figure, axes = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
    for index, (label, y) in enumerate(curves.items()):
        style = STYLES[index % len(STYLES)]
        axes.plot(x, y, style, color=PALETTE[index], lw=1.8, label=label)
    axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log else "linear")
    axes.legend(frameon=False)
    sns.despine(figure)
    return figure


def draw_rings(
    clouds: Mapping[str, Float[Tensor, "N 2"]], target: Float[Tensor, "M 2"], *, columns: int = 6
) -> Figure:
    """Generated points (orange) over real ones (blue), one panel for each cloud."""
    columns = min(columns, len(clouds))
    rows, size = -(-len(clouds) // columns), 1.5 if columns > 3 else 2.5  # inches a panel
    figure, panels = plt.subplots(
        rows, columns, figsize=(size * columns + 0.6, (size + 0.25) * rows + 0.2),
        sharex=True, sharey=True, layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes in panels.flat:
        axes.set_visible(False)
    for axes, (title, cloud) in zip(panels.flat, clouds.items(), strict=False):
        axes.set_visible(True)
        axes.scatter(*target.T.cpu(), s=8, color=BLUE, alpha=0.25, lw=0)
        axes.scatter(*cloud.T.cpu(), s=3, color=ORANGE, lw=0)
        axes.set(aspect="equal", xlim=(-2.9, 2.9), ylim=(-2.9, 2.9))
        axes.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2], xlabel="first coordinate")
        axes.set_title(title, fontsize=9)
    panels[0, 0].set_ylabel("second coordinate")
    return figure


def draw_field(
    panels: Mapping[str, tuple[Callable[[Tensor], Tensor], Float[Tensor, "N 2"]]],
    centers: Float[Tensor, "K 2"],
    *,
    radius: float,
    arrows: int = 60,
    columns: int | None = None,
) -> Figure:
    """Where a discriminator sees real samples, and where its slope sends the generated ones.

    Args:
        panels: Title → (discriminator, generated points).
        centers: Of the modes, drawn as circles.
        radius: Of the circles.
        arrows: At how many of the points the direction of the logit's gradient is drawn.
        columns: Panels in a row; None puts all of them in one.
    """
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    figure, places = plt.subplots(
        rows, columns, figsize=(2.7 * columns + 0.9, 2.7 * rows + 0.3), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    ticks = torch.linspace(-2.9, 2.9, 121)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1).reshape(-1, 2)
    for axes, (title, (discriminator, cloud)) in zip(places.flat, panels.items(), strict=True):
        with torch.no_grad():
            probability = discriminator(grid).sigmoid().reshape(121, 121)
        mesh = axes.pcolormesh(
            ticks.numpy(), ticks.numpy(), probability.numpy(), cmap="Blues", vmin=0, vmax=1
        )
        points = cloud[:arrows].clone().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(points).sum(), points)
        slope = slope / slope.norm(dim=1, keepdim=True)
        axes.scatter(*cloud.T.numpy(), s=4, color=ORANGE, lw=0)
        axes.quiver(
            *points.detach().T.numpy(), *slope.T.numpy(), color="0.2", scale=16, width=0.005
        )
        for center in centers:
            axes.add_patch(Circle(tuple(center.tolist()), radius, fill=False, ec="black", lw=1.2))
        axes.set(aspect="equal", xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), title=title)
    for axes in places[-1]:
        axes.set_xlabel("first coordinate")
    for axes in places[:, 0]:
        axes.set_ylabel("second coordinate")
    figure.colorbar(mesh, ax=places.flatten().tolist(), label="D: probability of real", shrink=0.85)
    return figure


def draw_games(
    runs: Mapping[str, Mapping[int, Sequence[float]]], *, y_label: str, top: float
) -> Figure:
    """One number of each game over the steps: thin lines for the games, a thick one for their mean.

    Args:
        runs: Name of a plan → step → one number for each game.
        y_label: What the number is.
        top: The best value, drawn as a dashed line.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for index, (name, values) in enumerate(runs.items()):
        steps, color = list(values), PALETTE[index]
        rows = torch.tensor([list(values[step]) for step in steps], dtype=torch.float64)
        axes.plot(steps, rows.numpy(), color=color, lw=0.7, alpha=0.5)
        style = STYLES[index % len(STYLES)]
        axes.plot(steps, rows.mean(1).numpy(), style, color=color, lw=2.4, label=name)
    axes.axhline(top, color=GREY, ls="--", lw=1)
    axes.set(xlabel="steps", ylabel=y_label)
    figure.legend(frameon=False, loc="outside right upper")
    sns.despine(figure)
    return figure


def draw_class_grid(rows: Mapping[str, Float[Tensor, "N 1 H W"]]) -> Figure:
    """Grey images in [−1, 1], a row for each name."""
    columns = max(len(images) for images in rows.values())
    height, width = next(iter(rows.values())).shape[2:]
    down, right = height + 1, width + 1  # one pixel of white between two images
    sheet = torch.full((down * len(rows), right * columns), -1.0)  # one picture is drawn fast
    for row, images in enumerate(rows.values()):
        for column, image in enumerate(images):
            top, left = down * row, right * column
            sheet[top : top + height, left : left + width] = image[0]
    figure, axes = plt.subplots(
        figsize=(0.5 * columns + 0.6, 0.52 * len(rows)), layout="constrained"
    )
    axes.imshow(sheet.cpu().numpy(), cmap="gray_r", vmin=-1, vmax=1)
    middles = [down * row + (height - 1) / 2 for row in range(len(rows))]
    axes.set_yticks(middles, labels=list(rows))
    axes.set_xticks([])
    axes.tick_params(length=0)
    sns.despine(figure, left=True, bottom=True)
    return figure
