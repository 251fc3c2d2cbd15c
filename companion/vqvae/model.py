"""The VQ-VAE: encoder, quantizer, decoder.

Chapter: course/03_vqvae.ipynb.
Dimension key: B batch, C channels, H W height and width, D coordinates of a code, h w the grid.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from companion.checks import typed
from companion.vqvae.networks import Decoder, Encoder
from companion.vqvae.quantizer import mean_square

__all__ = ["VQVAE", "VQVAEOutput"]


class VQVAEOutput(NamedTuple):
    """What one pass gives."""

    reconstruction: Float[Tensor, "B C H W"]
    indices: Int[Tensor, "B h w *levels"]  # one code for each place of the grid, or one a level
    loss: Float[Tensor, ""]  # mean squared error of the images, plus the quantizer's loss


class VQVAE(nn.Module):
    """An autoencoder whose middle is a grid of codes from a codebook.

    loss = mean (x − x̂)² + the quantizer's loss

    Source: van den Oord et al. 2017, arXiv:1711.00937, §3, Eq. 3. The reconstruction term there
    is a log-likelihood; a Gaussian of fixed variance makes it this mean of squares.

    Args:
        quantizer: As ``VectorQuantizer`` and its kin: takes ``[*b, D]``, has ``dim`` (D) and
            ``codes(indices)``.
        channels: C of the images.
        width: Maps of the layers between.
        levels: How many times the sides halve; h = H / 2^levels.
        residual_blocks: In the encoder, and as many in the decoder.
        generator: Source of the initial weights; the quantizer has its own.

    Raises:
        ValueError: If a size is less than 1, or a count is negative.

    Example:
        >>> from companion.vqvae import VectorQuantizer
        >>> model = VQVAE(VectorQuantizer(16, 4), channels=3, width=8)
        >>> model(torch.zeros(2, 3, 32, 20)).indices.shape
        torch.Size([2, 8, 5])
    """

    @typed
    def __init__(
        self,
        quantizer: nn.Module,
        *,
        channels: int = 1,
        width: int = 64,
        levels: int = 2,
        residual_blocks: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "width": width, "levels": levels}
        rest = {"residual_blocks": residual_blocks, "generator": generator}
        self.encoder = Encoder(quantizer.dim, **sizes, **rest)
        self.quantizer = quantizer
        self.decoder = Decoder(quantizer.dim, **sizes, **rest)

    def forward(self, images: Float[Tensor, "B C H W"]) -> VQVAEOutput:
        """Reconstruction, indices and loss; the quantizer learns from it in training mode."""
        z_q, indices, loss = self.quantizer(self.encoder(images).movedim(1, -1))
        reconstruction = self.decoder(z_q.movedim(-1, 1))
        return VQVAEOutput(reconstruction, indices, mean_square(reconstruction, images) + loss)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w *levels"]:
        """The images as codes; the codebook stays as it is, in training mode too."""
        learning = [part for part in self.quantizer.modules() if part.training]
        self.quantizer.eval()
        try:
            return self.quantizer(self.encoder(images).movedim(1, -1)).indices
        finally:
            for part in learning:
                part.training = True

    def decode(self, indices: Int[Tensor, "B h w *levels"]) -> Float[Tensor, "B C H W"]:
        """Images from codes, in the decoder's dtype."""
        dtype = next(self.decoder.parameters()).dtype  # a codebook may have stayed in float32
        return self.decoder(self.quantizer.codes(indices).movedim(-1, 1).to(dtype))
