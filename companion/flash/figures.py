"""Drawings of chapter 09. Each takes what it draws and returns the matplotlib Figure.

Chapter: course/09_flash.ipynb.  Dimension key: S keys of one row, T queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from companion.flash.masks import Window, visible_TS
from companion.flash.online import online_softmax
from companion.flash.roofline import Ceilings, attainable_flops

__all__ = [
    "FULL",
    "MASKED",
    "SKIPPED",
    "RowByTiles",
    "describe_tile_map",
    "draw_growth",
    "draw_roofline",
    "draw_tile_map",
    "draw_time_against_bytes",
    "tile_kinds",
]

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN = PALETTE[:3]
PALE, GREY = "0.85", "0.45"
MARKERS = "osD^vPX"  # shape tells series apart where colour does not

SKIPPED, MASKED, FULL = range(3)


@dataclass(frozen=True)
class RowByTiles:
    """One row of scores consumed tile by tile: the frames of an explorable.

    Frame 0 is before the first tile; each further frame has taken one more.

    Fields:
        scores_S: The scores of one query.
        values_S2: The values, two numbers each, so that the output is a point in the plane.
        block: Scores in a tile; the last may be shorter.

    Example:
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
        """Values for `companion.explore.frames`."""
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


def tile_kinds(
    queries: int, keys: int, window: Window, *, tile: tuple[int, int]
) -> Int[Tensor, "rows columns"]:
    """For each tile: SKIPPED (no pair visible), MASKED (some) or FULL (all).

    Args:
        queries, keys: Lengths T and S.
        window: What is visible, from `companion.flash.masks.resolve_window`.
        tile: Queries and keys of a tile; at the ends tiles may be smaller.

    Example:
        >>> tile_kinds(6, 6, Window(right=0), tile=(2, 3))
        tensor([[1, 0],
                [2, 1],
                [2, 1]])
    """
    visible = visible_TS(queries, keys, window)
    rows = [
        [
            FULL if part.all() else MASKED if part.any() else SKIPPED
            for part in row.split(tile[1], 1)
        ]
        for row in visible.split(tile[0])
    ]
    return torch.tensor(rows)


def draw_tile_map(kinds: Int[Tensor, "rows columns"], *, title: str = "") -> Figure:
    """The tiles of a T × S matrix: skipped ones are never loaded; only masked ones need a mask."""
    count = torch.bincount(kinds.flatten(), minlength=3).tolist()
    rows, columns = kinds.shape
    colors = ["white", ORANGE, BLUE]
    size = 3.2 / max(rows, columns)
    figure, axes = plt.subplots(figsize=(size * columns + 2.6, size * rows + 0.9))
    axes.imshow(kinds.numpy(), cmap=ListedColormap(colors), vmin=0, vmax=2)
    for row, column in np.argwhere(kinds.numpy() == MASKED):  # a dot: not by colour alone
        axes.plot(column, row, ".", color="black")
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=GREY, lw=0.6)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="tile of keys", ylabel="tile of queries", title=title)
    names = ["skipped", "masked", "full"]
    handles = [
        Patch(facecolor=colors[kind], edgecolor=GREY, label=f"{names[kind]}: {count[kind]}")
        for kind in (FULL, MASKED, SKIPPED)
    ]
    axes.legend(handles=handles, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


def describe_tile_map(kinds: Int[Tensor, "rows columns"]) -> str:
    """The tile map in words."""
    skipped, masked, full = torch.bincount(kinds.flatten(), minlength=3).tolist()
    rows, columns = kinds.shape
    return (
        f"A grid of {rows} by {columns} tiles, queries downwards and keys to the right: {full} "
        f"are full, {masked} are crossed by the edge of the mask, {skipped} are skipped."
    )


def draw_growth(
    lengths: Sequence[int],
    seconds: Mapping[str, Sequence[float]],
    megabytes: Mapping[str, Sequence[float]],
) -> Figure:
    """Time and peak memory against the length, both axes logarithmic.

    Args:
        lengths: Tokens.
        seconds: Name of an implementation → time at each length.
        megabytes: The same names → peak memory at each length, in MB of 10⁶ bytes.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
    panels = ((left, seconds, "time (s)"), (right, megabytes, "peak memory (MB)"))
    for axes, series, label in panels:
        for index, (name, values) in enumerate(series.items()):
            axes.plot(lengths, values, f"{MARKERS[index]}-", color=PALETTE[index], label=name)
        _guides(axes, lengths, series)
        axes.set(xscale="log", yscale="log", xlabel="length N (tokens)", ylabel=label)
        axes.set_xticks(lengths, labels=[str(n) for n in lengths])
        axes.minorticks_off()
    left.legend(frameon=False)
    return figure


def _guides(axes: Axes, lengths: Sequence[int], series: Mapping[str, Sequence[float]]) -> None:
    """Dotted slopes of N and N², so that an exponent can be read off."""
    first, last = lengths[0], lengths[-1]
    low = min(values[0] for values in series.values()) * 0.6
    for power, name in ((1, "∝ N"), (2, "∝ N²")):
        end = low * (last / first) ** power
        axes.plot([first, last], [low, end], ":", color=GREY, lw=1)
        axes.annotate(
            name,
            (last, end),
            color=GREY,
            fontsize="small",
            xytext=(-2, -4),
            textcoords="offset points",
            ha="right",
            va="top",
        )


def draw_roofline(ceilings: Ceilings, points: Mapping[str, tuple[float, float]]) -> Figure:
    """A machine's two ceilings, and what some computations reached below them.

    Args:
        ceilings: The machine's.
        points: Name → intensity in operations per byte, and operations per second reached.
    """
    figure, axes = plt.subplots(figsize=(6.0, 3.6), layout="constrained")
    intensities = [intensity for intensity, _ in points.values()]
    low, high = min([*intensities, ceilings.ridge]) / 4, max([*intensities, ceilings.ridge]) * 4
    xs = np.array([low, ceilings.ridge, high])
    axes.plot(xs, [attainable_flops(x, ceilings) / 1e9 for x in xs], color="black", lw=1.5)
    axes.axvline(ceilings.ridge, color=GREY, ls=":", lw=1)
    for index, (name, (intensity, reached)) in enumerate(points.items()):
        color, marker = PALETTE[index], MARKERS[index]
        axes.plot(intensity, reached / 1e9, marker, color=color, ms=8, label=name)
        roof = attainable_flops(intensity, ceilings) / 1e9
        axes.plot([intensity] * 2, [reached / 1e9, roof], ":", color=color, lw=1)
    axes.set(xscale="log", yscale="log", xlabel="intensity (operations per byte)")
    axes.set_ylabel("10⁹ operations per second")
    axes.legend(frameon=False, loc="lower right")
    return figure


def draw_time_against_bytes(series: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Measured time against counted traffic, one point for each length.

    Args:
        series: Name of an algorithm → (bytes of `hbm_bytes`, seconds) for each length.
    """
    figure, axes = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    for index, (name, pairs) in enumerate(series.items()):
        moved, seconds = zip(*pairs, strict=True)
        axes.plot(
            [x / 1e6 for x in moved],
            [1e3 * s for s in seconds],
            f"{MARKERS[index]}-",
            color=PALETTE[index],
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="bytes moved, counted (MB)", ylabel="time (ms)")
    axes.legend(frameon=False)
    return figure
