"""Drawings of chapter 09. Each takes what it draws and returns the matplotlib Figure.

Chapter: course/09_flash.ipynb.  Dimension key: S keys of one row, T queries.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from companion.flash.masks import Window, visible_TS
from companion.measure.roofline import Ceilings, attainable_flops

__all__ = [
    "FULL",
    "MASKED",
    "SKIPPED",
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


def tile_kinds(
    queries: int, keys: int, window: Window, *, tile: tuple[int, int]
) -> Int[Tensor, "rows columns"]:
    """For each tile: SKIPPED (no pair visible), MASKED (some) or FULL (all).

    Args:
        queries, keys: Lengths T and S.
        window: What is visible, from ``companion.flash.masks.resolve_window``.
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
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
    mebibytes: Mapping[str, Sequence[float]],
) -> Figure:
    """Time and peak memory against the length, both axes logarithmic.

    Args:
        lengths: Tokens.
        seconds: Name of an implementation → time at each length.
        mebibytes: The same names → peak memory at each length, in MiB.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
    panels = ((left, seconds, "time (s)"), (right, mebibytes, "peak memory (MiB)"))
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
    roof, bottom = ceilings.flops_per_s / 1e9, attainable_flops(low, ceilings) / 1e9
    bottom = min([bottom, *(reached / 1e9 for _, reached in points.values())]) / 2
    beside = {"fontsize": "small", "textcoords": "offset points", "color": GREY}
    axes.annotate(f"roof: {roof:.0f}", (high, roof), xytext=(-2, 4), ha="right", **beside)
    middle = math.sqrt(low * ceilings.ridge)
    words, height = f"slope:\n{ceilings.bytes_per_s / 1e9:.0f} GB/s", middle / ceilings.ridge * roof
    axes.annotate(words, (middle, height), xytext=(-6, 0), ha="right", **beside)
    words = f"ridge: {ceilings.ridge:.0f}"
    axes.annotate(words, (ceilings.ridge, bottom), xytext=(4, 5), ha="left", **beside)
    for index, (name, (intensity, reached)) in enumerate(points.items()):
        color, marker = PALETTE[index], MARKERS[index]
        axes.plot(intensity, reached / 1e9, marker, color=color, ms=8, label=name)
        above = attainable_flops(intensity, ceilings) / 1e9
        axes.plot([intensity] * 2, [reached / 1e9, above], ":", color=color, lw=1)
    axes.set(xscale="log", yscale="log", xlabel="intensity (operations per byte)")
    axes.set(ylabel="10⁹ operations per second", ylim=(bottom, 2 * roof))
    _plain_ticks(axes)
    axes.legend(frameon=False, loc="lower right")
    return figure


def draw_time_against_bytes(
    lengths: Sequence[int], series: Mapping[str, Sequence[tuple[float, float]]]
) -> Figure:
    """Measured time against counted traffic, one point for each length.

    Args:
        lengths: N of each point, written beside it.
        series: Name of an algorithm → (bytes of ``hbm_bytes``, seconds) for each length.
    """
    figure, axes = plt.subplots(figsize=(6.0, 3.8), layout="constrained")
    named: set[float] = set()
    for index, (name, pairs) in enumerate(series.items()):
        moved = [x / 2**20 for x, _ in pairs]
        times = [1e3 * seconds for _, seconds in pairs]
        axes.plot(moved, times, f"{MARKERS[index]}-", color=PALETTE[index], label=name)
        for at in zip(lengths, moved, times, strict=True):
            if at[1] not in named:  # an algorithm that moves the same has its N beside the first
                style = {"fontsize": "x-small", "textcoords": "offset points", "ha": "right"}
                axes.annotate(f"{at[0]}", at[1:], xytext=(-7, 3), **style)
        named.update(moved)
    axes.set(xscale="log", yscale="log", xlabel="bytes moved, counted (MiB)", ylabel="time (ms)")
    axes.margins(0.12)
    _plain_ticks(axes)
    axes.legend(frameon=False)
    return figure


def _plain_ticks(axes: Axes) -> None:
    """100 and not 10²; over few powers of ten also at 2 and 5 times each."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
