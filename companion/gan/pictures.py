"""Pictures of what a recipe's generator draws, where matplotlib is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_samples", "save_picture"]


def draw_samples(samples: Float[Tensor, "N *shape"]) -> "Figure":
    """Points of the plane as a scatter, images in [0, 1] as a grid of the first 40."""
    import matplotlib.pyplot as plt

    samples = samples.cpu().numpy()
    if samples.ndim == 2:
        figure, axes = plt.subplots(figsize=(4, 4))
        axes.scatter(*samples.T, s=4)
        axes.set(xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
        return figure
    figure, grid = plt.subplots(4, 10, figsize=(7.5, 3.2))
    for axes, image in zip(grid.flat, samples[:, 0], strict=False):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes.set_axis_off()
    return figure


def save_picture(samples: Float[Tensor, "N *shape"], file: Path) -> None:
    """A machine that only trains may lack matplotlib; with it, the checkpoint draws the same."""
    if find_spec("matplotlib") is None:
        install = "pip install 'companion[course]'"
        print(f"{file} is not drawn without matplotlib: {install}, then the same command")
        return
    import matplotlib.pyplot as plt

    draw_samples(samples).savefig(file)
    plt.close("all")
