"""Finite scalar quantisation: a grid in place of a codebook, so that no code can die.

Chapter: course/03_vqvae.ipynb.  Dimension key: D coordinates, K codes, L levels of a coordinate.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from companion.checks import check_count, typed
from companion.vqvae.gradients import straight_through
from companion.vqvae.quantizer import Quantized, check_indices, check_vectors

__all__ = ["FiniteScalarQuantizer"]

EPSILON = 1e-3  # widens the bound a little, so that the outermost levels are reached


class FiniteScalarQuantizer(nn.Module):
    """Every coordinate is rounded to one of its L levels; K is the product of the L.

        h = (L − 1)(1 + 10⁻³) / 2,    o = ½ for even L, else 0,    s = artanh(o / h)
        z_q = round(tanh(z + s) · h − o) / ⌊L / 2⌋

    The gradient passes the rounding unchanged, and the tanh as it is. There is nothing to learn:
    the loss is 0. Levels are counted from −⌊L/2⌋ on, and the first coordinate's index varies
    fastest. For L = 2 the two levels meet at z = −3.8: prefer 3 and more.

    Source: Mentzer et al. 2023, arXiv:2309.15505, §3.1 and appendix A.1. 16-bit vectors are
    computed in float32. Difference: levels are clamped to their range, which rounding leaves from
    L = 1001 on.

    Args:
        levels: L of every coordinate, each at least 2.

    Raises:
        ValueError: If there is no level, one is less than 2, or K is more than 2⁶³ − 1.

    Example:
        >>> quantizer = FiniteScalarQuantizer([3, 5])
        >>> z_q, indices, _ = quantizer(torch.tensor([[9.0, -9.0], [0.0, 0.6]]))
        >>> z_q.tolist(), indices.tolist()
        ([[1.0, -1.0], [0.0, 0.5]], [2, 10])
    """

    levels_D: Int[Tensor, " D"]
    basis_D: Int[Tensor, " D"]

    @typed
    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        levels = list(levels)
        if not levels:
            raise ValueError("levels: expected at least one, got none")
        for number, level in enumerate(levels):
            check_count(f"levels[{number}]", level, least=2)
        if (codes := math.prod(map(int, levels))) > torch.iinfo(torch.int64).max:
            raise ValueError(f"levels: their product must be less than 2⁶³, got {codes}")
        self.levels, self.dim = tuple(map(int, levels)), len(levels)
        basis = list(itertools.accumulate((1, *self.levels[:-1]), int.__mul__))
        # Integers: a cast of the module to 16 bits leaves them alone.
        self.register_buffer("levels_D", torch.tensor(self.levels), persistent=False)
        self.register_buffer("basis_D", torch.tensor(basis), persistent=False)

    @property
    def num_codes(self) -> int:
        """K."""
        return math.prod(self.levels)

    def forward(self, z: Float[Tensor, "*b D"]) -> Quantized:
        """Codes in z's dtype, indices, and a loss of 0."""
        check_vectors(z, self.dim)
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        bounded = self._bound(wide)
        rounded = self._round(bounded.detach())
        z_q = straight_through(bounded, rounded) / (self.levels_D // 2)
        return Quantized(z_q.to(z.dtype), self._index(rounded), wide.new_zeros(()))

    def codes_to_indices(self, codes: Float[Tensor, "*b D"]) -> Int[Tensor, "*b"]:
        """Numbers in [0, K) of the nearest codes; NaN counts as 0, the middle.

        So codes may have been in 16 bits: float16 keeps levels apart up to L = 2048, bfloat16 up
        to 256.
        """
        check_vectors(codes, self.dim)
        wide = codes.to(torch.promote_types(codes.dtype, torch.float32))
        return self._index(self._round(wide * (self.levels_D // 2)))

    def indices_to_codes(self, indices: Int[Tensor, "*b"]) -> Float[Tensor, "*b D"]:
        """The codes with these numbers, in torch's default dtype, in [−1, 1].

        Raises:
            ValueError: If a number is outside [0, K).
        """
        check_indices(indices)
        if indices.numel() and not 0 <= indices.min() <= indices.max() < self.num_codes:
            low, high = indices.min().item(), indices.max().item()
            raise ValueError(f"indices must be in [0, {self.num_codes}), got {low} to {high}")
        level = indices[..., None] // self.basis_D % self.levels_D
        return (level - self.levels_D // 2) / (self.levels_D // 2)

    def codes(self, indices: Int[Tensor, "*b"]) -> Float[Tensor, "*b D"]:
        """``indices_to_codes``, by the name that every quantizer has."""
        return self.indices_to_codes(indices)

    def _bound(self, z: Tensor) -> Tensor:
        half_D = (self.levels_D - 1).to(z.dtype) * (1 + EPSILON) / 2
        offset_D = (self.levels_D % 2 == 0).to(z.dtype) / 2
        return (z + (offset_D / half_D).atanh()).tanh() * half_D - offset_D

    def _round(self, scaled: Tensor) -> Tensor:
        """The nearest level there is, counted from −⌊L/2⌋ on."""
        lowest_D = -(self.levels_D // 2)
        return scaled.round().clamp(lowest_D, lowest_D + self.levels_D - 1)

    def _index(self, rounded: Tensor) -> Tensor:
        level = rounded.nan_to_num().long() + self.levels_D // 2  # NaN as an integer is negative
        return (level * self.basis_D).sum(-1)
