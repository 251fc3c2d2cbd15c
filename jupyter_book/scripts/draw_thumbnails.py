"""Draw one small picture per chapter for the landing page, as SVG without text.

python jupyter_book/scripts/draw_thumbnails.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Polygon, Rectangle

HERE = Path(__file__).resolve().parents[1]  # jupyter_book
BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, PINK, GREY, YELLOW, SKY = sns.color_palette("colorblind")
INK = "#33415c"
PALE = "#d5dbe6"
CARD = "#f4f6fa"


def bell(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - centre) / width) ** 2)


def square(axis: Axes, x: float, y: float, colour, size: float = 1.0, **style) -> None:
    """One cell of a grid, with a hair of space around it."""
    axis.add_patch(Rectangle((x + 0.06, y + 0.06), size - 0.12, size - 0.12, fc=colour, **style))


def gan(axis: Axes) -> None:
    x = np.linspace(0, 10, 200)
    data, model = bell(x, 4, 1.1), bell(x, 6, 1.3)
    axis.fill_between(x, data, color=BLUE, alpha=0.35, lw=0)
    axis.plot(x, data, color=BLUE, lw=2.5)
    axis.plot(x, model, color=ORANGE, lw=2.5)
    axis.plot(x, 1.15 * data / (data + model), color=INK, lw=2, ls=(0, (2, 2)))
    axis.set(xlim=(0, 10), ylim=(-0.15, 1.35))


def wasserstein(axis: Axes) -> None:
    x = np.linspace(0, 10, 200)
    top, bottom = bell(x, 3, 1.1), bell(x, 5.2, 0.6) + 0.8 * bell(x, 8, 0.7)
    level = np.linspace(0.01, 0.99, 46)
    start, end = (np.interp(level, np.cumsum(p) / p.sum(), x) for p in (top, bottom))
    height = np.linspace(0, 1, 25)
    smooth = height**2 * (3 - 2 * height)
    for u, a, b in zip(level, start, end, strict=True):
        axis.plot(
            a + (b - a) * smooth,
            3 - 2 * height,
            color=sns.blend_palette([SKY, ORANGE], as_cmap=True)(u),
            lw=1,
        )
    axis.fill_between(x, 3, 3 + top, color=BLUE, lw=0)
    axis.fill_between(x, 1, 1 - bottom, color=ORANGE, lw=0)
    axis.set(xlim=(-0.4, 10.4), ylim=(-0.2, 4.2))


def vqvae(axis: Axes) -> None:
    rng = np.random.default_rng(4)
    codes = rng.uniform([0.6, 0.5], [9.4, 5.5], size=(9, 2))
    grid = np.stack(np.meshgrid(np.linspace(0, 10, 200), np.linspace(0, 6, 120)), axis=-1)
    for _ in range(4):  # k-means on the square, so that the cells are of like size
        nearest = ((grid[:, :, None] - codes) ** 2).sum(-1).argmin(-1)
        codes = np.stack([grid[nearest == k].mean(0) for k in range(9)])
    nearest = ((grid[:, :, None] - codes) ** 2).sum(-1).argmin(-1)
    hues = [BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, PURPLE, BROWN, GREY]
    for k, hue in enumerate(hues):
        axis.contourf(
            grid[..., 0], grid[..., 1], nearest == k, levels=[0.5, 1.5], colors=[hue], alpha=0.45
        )
    axis.scatter(*rng.uniform([0, 0], [10, 6], size=(140, 2)).T, s=5, color=INK, alpha=0.5, lw=0)
    axis.scatter(*codes.T, s=55, color=INK, edgecolor="white", lw=1.5)
    axis.set(xlim=(0, 10), ylim=(0, 6))


def vqgan(axis: Axes) -> None:
    rng = np.random.default_rng(1)
    hues = [BLUE, SKY, SKY, GREEN, YELLOW, ORANGE]
    for row in range(6):
        for column in range(10):
            known = row < 2 or (row == 2 and column < 5)
            shade = hues[int(np.clip(row + rng.integers(-1, 2), 0, 5))]
            square(axis, column, 5 - row, shade if known else PALE)
    axis.add_patch(Rectangle((3, 2), 4, 4, fill=False, ec=INK, lw=3))
    axis.set(xlim=(-0.2, 10.2), ylim=(-0.2, 6.2))


def adapters(axis: Axes) -> None:
    for y in (0.2, 2.4, 4.6):
        axis.add_patch(Rectangle((0.8, y), 5, 1.2, fc=PALE, lw=0))
    for y in (1.4, 3.6):
        axis.plot([3.3, 3.3], [y, y + 1], color=INK, lw=2)
        waist = [
            (6.6, y - 0.55),
            (9.4, y - 0.55),
            (8.35, y + 0.5),
            (9.4, y + 1.55),
            (6.6, y + 1.55),
            (7.65, y + 0.5),
        ]
        axis.add_patch(Polygon(waist, fc=ORANGE, lw=0))
        axis.plot([3.3, 6.7], [y + 0.5, y + 0.5], color=INK, lw=1.2, ls=(0, (2, 2)))
    axis.set(xlim=(0, 10), ylim=(0, 6))


def prefix(axis: Axes) -> None:
    for k in range(10):
        square(axis, k, 0.6, ORANGE if k < 3 else PALE)
    for k in range(10):
        if k != 8:
            arc = FancyArrowPatch(
                (8.5, 1.65),
                (k + 0.5, 1.65),
                arrowstyle="-",
                connectionstyle="arc3,rad=0.55" if k < 8 else "arc3,rad=-0.55",
            )
            arc.set(
                color=ORANGE if k < 3 else INK, lw=2.2 if k < 3 else 0.9, alpha=1 if k < 3 else 0.5
            )
            axis.add_patch(arc)
    axis.set(xlim=(-0.2, 10.2), ylim=(0, 6.1))


def lora(axis: Axes) -> None:
    axis.add_patch(Rectangle((0.4, 0.8), 4.2, 4.4, fc=PALE, lw=0))
    axis.plot([5, 5.6], [3, 3], color=INK, lw=2.5)
    axis.plot([5.3, 5.3], [2.7, 3.3], color=INK, lw=2.5)
    axis.add_patch(Rectangle((6, 0.8), 0.6, 4.4, fc=BLUE, lw=0))
    axis.add_patch(Rectangle((6.9, 4.6), 2.8, 0.6, fc=ORANGE, lw=0))
    axis.add_patch(Rectangle((6.9, 0.8), 2.8, 3.5, fill=False, ec=INK, lw=1, ls=(0, (2, 2))))
    axis.set(xlim=(0, 10), ylim=(0, 6))


def precision(axis: Axes) -> None:
    for row, (exponent, fraction) in enumerate([(8, 23), (8, 7), (5, 10)]):
        colours = [RED] + [GREEN] * exponent + [BLUE] * fraction
        for k, colour in enumerate(colours):
            axis.add_patch(Rectangle((k + 0.08, 8.4 - 3.6 * row), 0.84, 2.2, fc=colour, lw=0))
    axis.set(xlim=(-0.8, 32.8), ylim=(0, 12))


def flash(axis: Axes) -> None:
    for row in range(6):
        for column in range(6):
            done = column <= row and (row < 3 or (row == 3 and column < 2))
            colour = BLUE if done else PALE if column <= row else "#e9edf4"
            square(axis, 2 + column, 5 - row, ORANGE if (row, column) == (3, 2) else colour)
    for k in range(6):
        square(axis, 0.6, 5 - k, INK if k == 3 else PALE)
    axis.set(xlim=(-0.7, 9.3), ylim=(-0.2, 6.2), aspect="equal")


def processes(axis: Axes) -> None:
    spans = [(0.3, 2.1, BLUE), (2.7, 1.2, SKY), (4.6, 2.6, BLUE), (7.6, 1.9, SKY)]
    for row, shift in enumerate([0, 0.9, -0.2, 0.5]):
        for k, (start, width, colour) in enumerate(spans):
            hue = ORANGE if (row + k) % 4 == 1 else colour
            axis.add_patch(
                Rectangle(
                    (max(start + shift, 0.3), 4.5 - 1.4 * row),
                    width * (1 - 0.08 * row),
                    0.9,
                    fc=hue,
                    lw=0,
                )
            )
    axis.set(xlim=(0, 10.6), ylim=(-0.3, 6))


def collectives(axis: Axes) -> None:
    angle = np.pi / 2 - 2 * np.pi * np.arange(6) / 6
    place = np.stack([5 + 2.3 * np.cos(angle), 3 + 2.3 * np.sin(angle)], axis=1)
    for k, (here, there) in enumerate(zip(place, np.roll(place, -1, axis=0), strict=True)):
        axis.add_patch(
            FancyArrowPatch(
                here,
                there,
                arrowstyle="-|>",
                mutation_scale=13,
                shrinkA=15,
                shrinkB=15,
                color=INK,
                lw=1.8,
            )
        )
        axis.add_patch(Circle(here, 0.58, fc=[BLUE, ORANGE, GREEN, PINK, YELLOW, SKY][k], lw=0))
    axis.set(xlim=(0, 10), ylim=(-0.1, 6.1), aspect="equal")


def medusa(axis: Axes) -> None:
    levels = [[3.0], [1.0, 3.0, 5.0], [0.4, 1.6, 3.0, 4.6, 5.5], [1.2, 2.0, 3.4]]
    parents = [[], [0, 0, 0], [0, 0, 1, 2, 2], [1, 1, 2]]
    accepted = [0, 0, 1, 1]
    for depth in range(1, 4):
        for k, y in enumerate(levels[depth]):
            chosen = accepted[depth] == k
            start = levels[depth - 1][parents[depth][k]]
            axis.plot(
                [3 * depth - 2.4, 3 * depth + 0.6],
                [start, y],
                color=ORANGE if chosen else PALE,
                lw=3 if chosen else 2,
                zorder=1 + chosen,
            )
    for depth, row in enumerate(levels):
        for k, y in enumerate(row):
            axis.add_patch(
                Circle(
                    (3 * depth + 0.6, y),
                    0.3,
                    fc=ORANGE if accepted[depth] == k else BLUE,
                    lw=0,
                    zorder=3,
                )
            )
    axis.set(xlim=(-0.2, 10.4), ylim=(-0.1, 6.1), aspect="equal")


def mtp(axis: Axes) -> None:
    hues = [BLUE, GREEN, ORANGE, PINK]
    for row, hue in enumerate(hues):
        for column in range(9):
            square(
                axis,
                column,
                4.4 - 1.3 * row,
                hue if column == row + 4 else PALE if column < row + 4 else "#e9edf4",
            )
    axis.add_patch(Rectangle((3, 0.25), 1, 5.4, fill=False, ec=INK, lw=2.5))
    axis.set(xlim=(-0.3, 9.3), ylim=(0, 6))


CHAPTERS = [
    gan,
    wasserstein,
    vqvae,
    vqgan,
    adapters,
    prefix,
    lora,
    precision,
    flash,
    processes,
    collectives,
    medusa,
    mtp,
]


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "course"  # the same file at every run
    folder = HERE / "_static" / "thumbnails"
    folder.mkdir(exist_ok=True)
    for number, draw in enumerate(CHAPTERS, start=1):
        figure, axis = plt.subplots(figsize=(4, 2.4), facecolor=CARD)
        axis.set_axis_off()
        draw(axis)
        figure.subplots_adjust(left=0.06, right=0.94, bottom=0.1, top=0.9)
        figure.savefig(folder / f"{number:02d}_{draw.__name__}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
