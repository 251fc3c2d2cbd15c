"""The drawings of chapter 02. Each function takes tensors and returns the matplotlib Figure.

Chapter: course/02_wasserstein.ipynb.  Dimension key: N source points, M target points, H heights.
"""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.optimize import nnls
from torch import Tensor

__all__ = [
    "draw_critics",
    "draw_image_rows",
    "draw_plan",
    "draw_point_clouds",
    "draw_potential",
    "draw_tracking",
    "farkas_panels",
]

BLUE, ORANGE, GREEN, RED = sns.color_palette("colorblind")[:4]
GREY = "0.55"


def _arrow(axes, tail, head, color) -> None:
    axes.annotate(
        "",
        head,
        tail,
        arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2, "shrinkA": 0, "shrinkB": 0},
    )


def farkas_panels(
    columns: Float[Tensor, "2 2"], *, inside: Float[Tensor, "2"], outside: Float[Tensor, "2"]
) -> Figure:
    """The two cases of Farkas' lemma in the plane.

    Args:
        columns: Two vectors (rows of this tensor) that span the cone.
        inside: A vector of the cone, drawn on the left.
        outside: A vector outside it, drawn on the right with its nearest point of the cone.

    Returns:
        A figure with two panels.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.8), sharex=True, sharey=True)
    for axes, target in zip(panels, (inside.numpy(), outside.numpy()), strict=True):
        matrix = columns.T.double().numpy()
        far = 3 * matrix
        axes.fill(*np.column_stack([[0, 0], far[:, 0], far[:, 1]]), color=BLUE, alpha=0.15, lw=0)
        for index in range(2):
            _arrow(axes, (0, 0), matrix[:, index], BLUE)
            axes.annotate(
                f"$A_{index + 1}$",
                matrix[:, index],
                xytext=((4, -16), (-18, 2))[index],  # outside the cone, off its edges
                textcoords="offset points",
                color=BLUE,
            )
        weights, distance = nnls(matrix, target)
        _arrow(axes, (0, 0), target, "black")
        axes.annotate("$h$", target, xytext=(5, -10), textcoords="offset points")
        if distance > 1e-9:
            _draw_certificate(axes, target, matrix @ weights)
            axes.set_title("outside: a line separates $h$ from the cone")
        else:
            axes.set_title("inside: $h = \\gamma_1 A_1 + \\gamma_2 A_2$")
        axes.set(xlim=(-0.9, 3.1), ylim=(-1.2, 2.3), aspect="equal", xlabel="first coordinate")
        sns.despine(ax=axes)
    panels[0].set_ylabel("second coordinate")
    figure.tight_layout()
    return figure


def _draw_certificate(axes, target: np.ndarray, nearest: np.ndarray) -> None:
    certificate = nearest - target
    across = np.array([-certificate[1], certificate[0]]) / np.linalg.norm(certificate)
    axes.plot(*np.column_stack([-5 * across, 5 * across]), color=ORANGE, lw=1.5, ls="--")
    axes.plot(*nearest, "o", color=ORANGE)
    axes.annotate("$k$", nearest, xytext=(-9, 7), textcoords="offset points", color=ORANGE)
    _arrow(axes, target, nearest, ORANGE)
    axes.annotate(
        "$\\lambda$",
        (target + nearest) / 2,
        xytext=(6, -4),
        textcoords="offset points",
        color=ORANGE,
    )


def draw_plan(
    mu_H: Float[Tensor, " H"],
    nu_H: Float[Tensor, " H"],
    plan_HH: Float[Tensor, "H H"],
    *,
    title: str,
) -> Figure:
    """A transport plan between two histograms, with the histograms along its sides.

    Args:
        mu_H: First histogram, drawn along the left side.
        nu_H: Second histogram, drawn along the top.
        plan_HH: Plan with these marginals; dark cells carry much.
        title: What to write above; the distances, say.

    Returns:
        A figure whose main panel has the place of the first pile downwards, of the second to the
        right. The diagonal, where nothing has to move, is dashed.
    """
    figure, grid = plt.subplots(
        2, 2, figsize=(4.6, 4.6), width_ratios=[1, 4], height_ratios=[1, 4], layout="constrained"
    )
    places = np.arange(len(mu_H))
    grid[0, 0].axis("off")
    grid[0, 1].stairs(nu_H, _edges(places), fill=True, color=ORANGE)
    grid[1, 0].stairs(mu_H, _edges(places), fill=True, color=BLUE, orientation="horizontal")
    tallest = float(max(mu_H.max(), nu_H.max()))
    grid[0, 1].set(ylim=(0, tallest), xlim=(-0.5, len(nu_H) - 0.5), xticks=[], yticks=[])
    grid[1, 0].set(xlim=(tallest, 0), ylim=(len(mu_H) - 0.5, -0.5), xticks=[], yticks=[])
    main = grid[1, 1]
    # The square root brings out small shipments beside large ones.
    main.imshow(plan_HH.clamp_min(0).sqrt().numpy(), cmap="Greys", aspect="auto", vmin=0)
    main.plot(places, places, color=GREEN, lw=1, ls="--", label="same place: nothing moves")
    main.set(xticks=[], yticks=[], xlabel="place of the second pile")
    grid[1, 0].set_ylabel("place of the first pile")
    for axes in grid.flat:
        sns.despine(ax=axes, left=True, bottom=True)
    figure.legend(loc="outside lower right", frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_potential(
    places_U: Float[Tensor, " U"],
    mu_U: Float[Tensor, " U"],
    nu_U: Float[Tensor, " U"],
    potential_U: Float[Tensor, " U"],
    *,
    title: str,
) -> Figure:
    """Two piles on a line, and below them an optimal dual potential.

    Args:
        places_U: Positions, in increasing order.
        mu_U: First pile.
        nu_U: Second pile.
        potential_U: Values of the potential f; slopes +1 and -1 are drawn in two colours.
        title: What to write above.

    Returns:
        A figure with two panels over one axis.
    """
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.4, 3.9), sharex=True, height_ratios=[1, 1.3], layout="constrained"
    )
    edges = _edges(places_U.numpy())
    above.stairs(mu_U, edges, fill=True, color=BLUE, alpha=0.7, label="first pile")
    above.stairs(nu_U, edges, fill=True, color=ORANGE, alpha=0.7, label="second pile")
    above.set(yticks=[], ylim=(0, 1.4 * float(max(mu_U.max(), nu_U.max()))))
    above.legend(frameon=False, loc="upper right", ncols=2, fontsize=9)
    slope = np.diff(potential_U) / np.diff(places_U)
    points = np.column_stack([places_U, potential_U])
    colors = [GREEN if value > 0.5 else RED if value < -0.5 else GREY for value in slope]
    below.add_collection(
        LineCollection(np.stack([points[:-1], points[1:]], axis=1), colors=colors, lw=2.5)
    )
    directions = {"rises: sand moves left": GREEN, "falls: sand moves right": RED, "flat": GREY}
    for text, color in directions.items():
        below.plot([], [], color=color, lw=2.5, label=text)
    figure.legend(
        *below.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    span = float(places_U[-1] - places_U[0])
    below.set(xlabel="place", ylabel="potential $f$", ylim=(-0.62 * span, 0.62 * span))
    below.set(xlim=(edges[0], edges[-1]))
    sns.despine(figure)
    figure.suptitle(title, fontsize=11)
    return figure


def _edges(places: np.ndarray) -> np.ndarray:
    """Borders of bars that are centred on evenly spaced places."""
    step = places[1] - places[0]
    return np.append(places - step / 2, places[-1] + step / 2)


def draw_critics(
    critics: dict[str, Callable[[Tensor], Tensor]],
    slopes: dict[str, float],
    real: Float[Tensor, "N 2"],
    fake: Float[Tensor, "M 2"],
) -> Figure:
    """Level lines of critics in the plane, over the two samples that they tell apart.

    Each critic is divided by its slope and shifted to mean 0 on the second sample, so that one
    scale of greys serves all panels.

    Args:
        critics: Title of a panel → critic.
        slopes: Title of a panel → what its scores are divided by.
        real: First sample, drawn in blue.
        fake: Second sample, drawn in orange.

    Returns:
        A figure with one panel per critic and one colour bar.
    """
    figure, panels = plt.subplots(
        1, len(critics), figsize=(3.1 * len(critics), 3.5), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    reach = 1.25 * float(torch.cat([real, fake]).abs().max())
    ticks = torch.linspace(-reach, reach, 101)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1).reshape(-1, 2)
    with torch.no_grad():
        scores = {
            title: ((critic(grid.to(real)) - critic(fake).mean()) / slopes[title]).cpu()
            for title, critic in critics.items()
        }
    lowest = min(float(values.min()) for values in scores.values())
    highest = max(float(values.max()) for values in scores.values())
    levels = np.linspace(lowest, highest, 15)
    for axes, (title, values) in zip(panels[0], scores.items(), strict=True):
        shades = axes.contourf(
            ticks, ticks, values.reshape(101, 101), levels=levels, cmap="Greys", alpha=0.8
        )
        axes.scatter(*real.T.cpu(), s=5, color=BLUE, label="ring")
        axes.scatter(*fake.T.cpu(), s=5, color=ORANGE, label="cloud")
        axes.set(title=title, aspect="equal", xlabel="first coordinate")
    panels[0, 0].set_ylabel("second coordinate")
    bar = figure.colorbar(shades, ax=panels[0], label="score / slope", shrink=0.8)
    bar.set_ticks(np.arange(np.ceil(lowest), highest))
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, markerscale=2)
    return figure


def draw_tracking(
    steps: Sequence[int],
    exact: Sequence[float],
    estimate: Sequence[float],
    *,
    floor: float,
    unit: str,
) -> Figure:
    """A critic's estimate beside the exact distance, over a training run.

    Args:
        steps: Generator steps at which both were measured.
        exact: Exact distance between samples.
        estimate: The critic's estimate of it.
        floor: Exact distance between two real samples.
        unit: Of the distances.

    Returns:
        A figure with one panel.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    axes.plot(steps, exact, color=BLUE, marker="o", ms=4, label="exact distance")
    axes.plot(steps, estimate, color=ORANGE, marker="s", ms=4, label="critic, held-out points")
    axes.axhline(floor, color=GREY, ls="--", lw=1, label="two real samples")
    axes.set(xlabel="generator steps", ylabel=f"distance ({unit})", ylim=(0, None), xticks=steps)
    axes.legend(frameon=False)
    sns.despine(figure)
    return figure


def draw_point_clouds(
    clouds: dict[str, Float[Tensor, "N 2"]], target: Float[Tensor, "M 2"]
) -> Figure:
    """Generated points of the plane over the target, one panel per cloud, none cut off."""
    figure, panels = plt.subplots(
        1, len(clouds), figsize=(2.4 * len(clouds), 2.7), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    reach = 1.05 * max(float(points.abs().max()) for points in (target, *clouds.values()))
    for axes, (title, cloud) in zip(panels[0], clouds.items(), strict=True):
        axes.scatter(*target.T.cpu(), s=12, color=BLUE, alpha=0.25, lw=0)
        axes.scatter(*cloud.T.cpu(), s=4, color=ORANGE, lw=0)
        axes.set(title=title, aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        axes.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2], xlabel="first coordinate")
    panels[0, 0].set_ylabel("second coordinate")
    sns.despine(figure)
    return figure


def draw_image_rows(rows: dict[str, Float[Tensor, "N 1 H W"]]) -> Figure:
    """Grey images in rows, each row with its title."""
    columns = max(len(images) for images in rows.values())
    figure, grid = plt.subplots(
        len(rows), columns, figsize=(0.72 * columns, 1.05 * len(rows)), squeeze=False
    )
    for line, (title, images) in zip(grid, rows.items(), strict=True):
        for axes in line:
            axes.axis("off")
        for axes, image in zip(line, images, strict=False):
            axes.imshow(image[0].cpu().numpy(), cmap="gray_r", vmin=0, vmax=1)
        line[0].set_title(title, fontsize=10, loc="left")
    figure.tight_layout(pad=0.3, h_pad=1.0)
    return figure
