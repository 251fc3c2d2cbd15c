"""Draw the landing page's picture: a horse made of sand, carried to a photographer at least cost.

The plan is the exact optimal assignment for squared distances. Grains move on straight lines at
constant speed, which is the shortest path between the two shapes in W2 (McCann 1997).

    python jupyter_book/scripts/draw_hero.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import ot
import seaborn as sns
from matplotlib.colors import LinearSegmentedColormap
from scipy.spatial.distance import cdist
from skimage import data, transform

HERE = Path(__file__).resolve().parents[1]  # jupyter_book
GRAINS = 3600
TIMES = [0, 0.25, 0.5, 0.75, 1]
NIGHT = "#0d1420"


def horse() -> np.ndarray:
    """The silhouette that scikit-image ships, as a 200 x 200 density."""
    return transform.resize(np.pad(~data.horse(), ((36, 36), (0, 0))).astype(float), (200, 200))


def photographer() -> np.ndarray:
    """The dark part of scikit-image's "camera" photo, as a 200 x 200 density."""
    darkness = np.clip(0.35 - data.camera() / 255, 0, None)
    darkness[:, 340:] *= np.linspace(1, 0, 172)  # leave out the far skyline
    return transform.resize(darkness, (200, 200), anti_aliasing=True)


def grains(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points in the unit square, drawn from a density given on pixels."""
    pixel = rng.choice(density.size, GRAINS, p=(density / density.sum()).ravel())
    rows, columns = np.divmod(pixel, density.shape[1])
    return (np.stack([columns, 199 - rows], axis=1) + rng.uniform(size=(GRAINS, 2))) / 200


def main() -> None:
    rng = np.random.default_rng(0)
    start, goal = grains(horse(), rng), grains(photographer(), rng)
    plan = ot.emd([], [], cdist(start, goal, "sqeuclidean"), numItermax=10_000_000)
    target = plan.argmax(axis=1)  # equal weights: an optimal plan is a permutation
    _, orange, *_, sky = sns.color_palette("colorblind")
    sand = LinearSegmentedColormap.from_list("sand", [sky, "#f7e7c4", orange])
    figure, axes = plt.subplots(1, len(TIMES), figsize=(15, 3.5), facecolor=NIGHT)
    for axis, time in zip(axes, TIMES, strict=True):
        place = (1 - time) * start + time * goal[target]
        axis.scatter(*place.T, c=start[:, 0], cmap=sand, s=1.9, linewidths=0)
        axis.set(xlim=(-0.04, 1.04), ylim=(-0.06, 1.06), aspect="equal")
        axis.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.99, wspace=0)
    figure.savefig(HERE / "_static" / "hero.png", dpi=110, facecolor=NIGHT)


if __name__ == "__main__":
    main()
