"""Two schematic drawings of chapter 09: where the tiles live, and which loop owns which gradient.

Chapter: course/09_flash.ipynb.
"""

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

__all__ = ["draw_memories", "draw_owners"]

BLUE, ORANGE, GREEN = sns.color_palette("colorblind")[:3]
PALE, GREY = "0.9", "0.45"


def draw_memories(tiles: int = 4) -> Figure:
    """The large memory with Q, K, V, O and ℓ, the chip with one tile of each, and the traffic.

    Args:
        tiles: Tiles of queries, and of keys.
    """
    figure, axes = plt.subplots(figsize=(8.0, 3.7), layout="constrained")
    axes.set(xlim=(0, 16), ylim=(0, 7.4))
    axes.axis("off")
    axes.add_patch(Rectangle((0.1, 0.4), 8.3, 6.6, facecolor="white", edgecolor=GREY))
    axes.text(0.3, 6.55, "large memory (HBM)", color=GREY)
    axes.add_patch(Rectangle((10.1, 0.4), 5.8, 6.6, facecolor="white", edgecolor="black", lw=1.6))
    axes.text(10.3, 6.55, "one processor (SRAM)", color="black")
    height = 4.6 / tiles
    for left, width, name, color, marked in (
        (0.5, 0.9, "Q", BLUE, {1}),
        (2.1, 0.9, "K", ORANGE, {2}),
        (3.7, 0.9, "V", ORANGE, {2}),
        (5.3, 0.9, "O", GREEN, {1}),
        (6.9, 0.4, "ℓ", GREEN, {1}),
    ):
        for tile in range(tiles):
            face = color if tile in marked else PALE
            corner = (left, 5.6 - (tile + 1) * height)
            axes.add_patch(Rectangle(corner, width, height, facecolor=face, edgecolor="white"))
        axes.text(left + width / 2, 5.8, name, ha="center")
    _box(axes, (10.6, 4.4), (1.0, 1.3), BLUE, "Q tile")
    _box(axes, (13.0, 4.4), (1.0, 1.3), ORANGE, "K tile")
    _box(axes, (14.6, 4.4), (1.0, 1.3), ORANGE, "V tile")
    _box(axes, (10.6, 2.6), (1.6, 1.2), "0.75", "scores")
    _box(axes, (10.6, 0.7), (1.0, 1.3), GREEN, "u")
    _box(axes, (12.1, 0.7), (0.35, 1.3), GREEN, "m")
    _box(axes, (12.9, 0.7), (0.35, 1.3), GREEN, "d")
    _arrow(axes, (8.4, 5.5), (10.1, 5.5), "Q tile:\nonce")
    _arrow(axes, (8.4, 3.6), (10.1, 3.6), "K and V:\nevery tile")
    _arrow(axes, (10.1, 1.5), (8.4, 1.5), "O, ℓ: once,\nat the end")
    axes.text(12.5, 3.05, "never leave the chip", fontsize=9, color=GREY)
    return figure


def draw_owners(tiles: int = 4) -> Figure:
    """The grid of tiles twice: swept by rows for dQ, and by columns for dK and dV.

    Args:
        tiles: Tiles of queries, and of keys.
    """
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.5), layout="constrained")
    for axes, by_rows in zip(panels, (True, False), strict=True):
        axes.set(xlim=(-1.9, tiles + 0.2), ylim=(tiles + 1.5, -0.9), aspect="equal")
        axes.axis("off")
        for row in range(tiles):
            for column in range(tiles):
                mine = (row if by_rows else column) == 1
                face = (BLUE if by_rows else ORANGE) if mine else PALE
                axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor="white"))
        for tile in range(tiles):
            axes.text(-0.2, tile + 0.5, f"q tile {tile + 1}", ha="right", va="center", fontsize=8)
            axes.text(tile + 0.5, -0.2, f"k tile {tile + 1}", ha="center", fontsize=8)
        if by_rows:
            axes.annotate("", (tiles, 1.5), (0, 1.5), arrowprops={"arrowstyle": "->", "lw": 2})
            title, words = "by rows: X, dP, dQ", "one worker adds up this row's dQ"
        else:
            axes.annotate("", (1.5, tiles), (1.5, 0), arrowprops={"arrowstyle": "->", "lw": 2})
            title, words = "by columns: X, dP, dV, dK", "one worker adds up this column's dK, dV"
        axes.set_title(title, fontsize=11)
        axes.text(tiles / 2, tiles + 0.6, words, ha="center", fontsize=9)
    return figure


def _box(
    axes: Axes, corner: tuple[float, float], size: tuple[float, float], color: object, name: str
) -> None:
    axes.add_patch(Rectangle(corner, *size, facecolor=color, edgecolor="white"))
    middle = corner[0] + size[0] / 2
    axes.text(middle, corner[1] + size[1] + 0.1, name, ha="center", fontsize=9)


def _arrow(axes: Axes, tail: tuple[float, float], head: tuple[float, float], words: str) -> None:
    axes.add_patch(FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=14, color="black"))
    axes.text((tail[0] + head[0]) / 2, tail[1] + 0.15, words, ha="center", va="bottom", fontsize=8)
