"""One photograph in few colours, kept as frames.

Chapter: course/03_vqvae.ipynb.  Dimension key: H W height and width, K colours.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from companion.vqvae.nearest import nearest_code

__all__ = ["Palettes"]


class Palettes:
    """A photograph beside itself in the nearest colours of several palettes.

    Fields:
        values: The palettes' sizes, for ``companion.explore.frames``.

    Args:
        photo: In [0, 1].
        palettes: K → its colours.

    Example:
        >>> import torch
        >>> palettes = Palettes(torch.full((3, 4, 5), 0.5), {1: torch.zeros(1, 3)})
        >>> palettes.values, palettes.error(1)
        ([1], 0.25)
    """

    def __init__(
        self, photo: Float[Tensor, "3 H W"], palettes: Mapping[int, Float[Tensor, "K 3"]]
    ) -> None:
        self.values = list(palettes)
        self._photo, self._palettes = photo, palettes

    def quantized(self, num_codes: int) -> Float[Tensor, "3 H W"]:
        """The photograph in the nearest colours."""
        palette = self._palettes[num_codes]
        return palette[nearest_code(self._photo.movedim(0, -1), palette)].movedim(-1, 0)

    def error(self, num_codes: int) -> float:
        """Mean squared error of all its numbers."""
        return (self.quantized(num_codes) - self._photo).square().mean().item()

    def draw(self, num_codes: int) -> Figure:
        """Original, quantised, and the palette below, from dark to light."""
        figure, panels = plt.subplot_mosaic(
            "ab;cc", height_ratios=(1, 0.08), figsize=(4.6, 2.6), layout="constrained"
        )
        panels["a"].imshow(self._photo.movedim(0, -1).numpy())
        panels["b"].imshow(self.quantized(num_codes).movedim(0, -1).numpy())
        palette = self._palettes[num_codes]
        panels["c"].imshow(palette[palette.sum(1).argsort()][None].numpy(), aspect="auto")
        panels["a"].set_title("original", fontsize=9)
        panels["b"].set_title(f"{num_codes} colours", fontsize=9)
        for axes in panels.values():
            axes.axis("off")
        return figure

    def describe(self, num_codes: int) -> str:
        """What the frame shows, in words."""
        return f"{num_codes} colours: mean squared error {self.error(num_codes):.4f}."
