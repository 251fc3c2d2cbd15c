"""Images beside what several models make of their codes, kept as frames.

Chapter: course/03_vqvae.ipynb.  Dimension key: B images, C H W.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from companion.vqvae.model import VQVAE
from companion.vqvae.study.figures import draw_images

__all__ = ["Reconstructions"]


class Reconstructions:
    """The same images through one model at a time.

    Fields:
        values: The models' bits for an image, for ``companion.explore.frames``.

    Args:
        models: Bits → model, in evaluation mode.
        images: To show.
        rivals: Name → bits → what another method makes of the images.

    Example:
        >>> from companion.vqvae import VectorQuantizer
        >>> model = VQVAE(VectorQuantizer(4, 2), width=3, levels=1, residual_blocks=0).eval()
        >>> shown = Reconstructions({32: model}, torch.zeros(3, 1, 8, 8))
        >>> shown.values, shown.error(32) >= 0
        ([32], True)
    """

    def __init__(
        self,
        models: Mapping[int, VQVAE],
        images: Float[Tensor, "B C H W"],
        *,
        rivals: Mapping[str, Mapping[int, Float[Tensor, "B C H W"]]] | None = None,
    ) -> None:
        self.values, self._images, self._rivals = list(models), images, rivals or {}
        with torch.no_grad():
            self._drawn = {bits: model(images).reconstruction for bits, model in models.items()}

    def error(self, bits: int) -> float:
        """Mean squared error of the images that are shown."""
        return (self._drawn[bits] - self._images).square().mean().item()

    def draw(self, bits: int) -> Figure:
        """Originals above, reconstructions below, then the rivals'."""
        rows = {"original": self._images, f"{bits} bits": self._drawn[bits]}
        return draw_images(rows | {name: of[bits] for name, of in self._rivals.items()})

    def describe(self, bits: int) -> str:
        """What the frame shows, in words."""
        return f"{bits} bits an image: mean squared error {self.error(bits):.4f} on these."
