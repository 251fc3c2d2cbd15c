"""A codebook that learns by gradient.

Chapter: course/03_vqvae.ipynb.  Dimension key: K codes, D width of a code.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from companion.checks import check_count, check_number, check_tensor, typed
from companion.vqvae.gradients import straight_through
from companion.vqvae.nearest import nearest_code

__all__ = ["Quantized", "VectorQuantizer", "check_indices", "check_vectors", "mean_square"]


class Quantized(NamedTuple):
    """What every quantizer gives."""

    z_q: Float[Tensor, "*b D"]
    """The codes, in z's dtype; the gradient with respect to z passes through."""
    indices: Int[Tensor, "*b"]
    """Which codes; int64, with one more axis of levels from ``ResidualQuantizer``."""
    loss: Float[Tensor, ""]
    """What to add to the loss of the reconstruction; float32 at least."""


class VectorQuantizer(nn.Module):
    """The nearest code for every vector; the codes learn by gradient, from the loss.

        loss = mean (sg[z] − e)² + β · mean (z − sg[e])²

    sg passes a value without a gradient; e is the nearest code itself, before anything passes
    through. The first term moves the codes to the vectors, the second the vectors to the codes:
    β stands by the second. Nothing but the first reaches the codes.

    Source: van den Oord et al. 2017, arXiv:1711.00937, §3.2, Eq. 3. Difference: the paper writes
    sums of squares over D, here each term is a mean over all elements. It does not say where the
    codes start: uniform in ±1/K is usual. 16-bit vectors: distances and loss in float32.

    Args:
        num_codes: K.
        dim: D.
        beta: β, at least 0; the paper found 0.1 to 2 much alike.
        through: What gives z_q its gradient: ``straight_through`` or ``rotate_through``.
        generator: Source of the initial codes.

    Raises:
        ValueError: If a size is less than 1 or β is negative.

    Example:
        >>> quantizer = VectorQuantizer(2, 1, beta=0.5)
        >>> _ = quantizer.codebook.data.copy_(torch.tensor([[0.0], [3.0]]))
        >>> z_q, indices, loss = quantizer(torch.tensor([[1.0], [5.0]]))
        >>> z_q.tolist(), indices.tolist(), loss.item()  # (1 + 4) / 2 · (1 + β)
        ([[0.0], [3.0]], [0, 1], 3.75)
    """

    @typed
    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        beta: float = 0.25,
        through: Callable[[Tensor, Tensor], Tensor] = straight_through,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("num_codes", num_codes)
        check_count("dim", dim)
        check_number("beta", beta, least=0)
        self.num_codes, self.dim, self.beta, self.through = num_codes, dim, beta, through
        codes_KD = torch.empty(num_codes, dim)
        codes_KD.uniform_(-1 / num_codes, 1 / num_codes, generator=generator)
        self.codebook = nn.Parameter(codes_KD)

    def forward(self, z: Float[Tensor, "*b D"]) -> Quantized:
        """Codes, indices and loss; without a vector the loss is 0."""
        check_vectors(z, self.dim)
        wide = _wide(z, self.codebook)
        indices = nearest_code(z.detach().to(wide), self.codebook.detach().to(wide))
        codes = F.embedding(indices, self.codebook)
        codebook_loss = mean_square(z.detach(), codes)
        commitment_loss = mean_square(z, codes.detach())
        z_q = self.through(z, codes.detach().to(z.dtype))
        return Quantized(z_q, indices, codebook_loss + self.beta * commitment_loss)

    def codes(self, indices: Int[Tensor, "*b"]) -> Float[Tensor, "*b D"]:
        """The codes with these numbers, in the codebook's dtype."""
        check_indices(indices)
        return F.embedding(indices, self.codebook)


def mean_square(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of (a − b)² over all elements, in float32 at least; 0 where there is none."""
    wide = _wide(a, b)
    total = F.mse_loss(a.to(wide), b.to(wide), reduction="sum")
    return total / max(a.numel(), 1)


def _wide(a: Tensor, b: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)


def check_vectors(z: object, dim: int) -> None:
    """Vectors of D coordinates along the last axis."""
    check_tensor("z", z)
    if z.ndim == 0 or z.shape[-1] != dim:
        raise ValueError(f"z: expected shape (..., {dim}), got {tuple(z.shape)}")


def check_indices(indices: object) -> None:
    """A tensor of int32 or int64; whether they are in range is for the look-up to say."""
    if not isinstance(indices, Tensor) or indices.dtype not in (torch.int32, torch.int64):
        got = getattr(indices, "dtype", type(indices).__name__)
        raise TypeError(f"indices: expected a tensor of integers, got {got}")
