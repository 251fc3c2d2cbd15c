"""Residual quantisation: each level quantises what the levels before it left.

Chapter: course/03_vqvae.ipynb.  Dimension key: D width of a code, L levels.
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from companion.checks import typed
from companion.vqvae.gradients import straight_through
from companion.vqvae.quantizer import Quantized, check_indices, check_vectors

__all__ = ["ResidualQuantizer"]


class ResidualQuantizer(nn.Module):
    """A sum of codes, one from each level.

        r_1 = z,    r_l = z − sg[e_1 + … + e_(l−1)],    z_q = e_1 + … + e_L
        loss = Σ_l loss_l(r_l)

    The gradient passes from z_q to z unchanged, whatever L and whatever the levels' own rule:
    added up, the levels' straight-through gradients would cancel or pile up. Earlier codes are
    constants in r_l, so a level's loss reaches z and that level's own codes, and no other level's.

    Source: Zeghidour et al. 2021, arXiv:2107.03312, §III-C, algorithm 1. Levels compute in float32
    where z has 16 bits, since what is left after some levels is small beside z.

    Args:
        quantizers: One for each level, all of the same ``dim``.

    Raises:
        ValueError: If there is none, or their widths differ.

    Example:
        >>> from companion.vqvae.finite_scalar import FiniteScalarQuantizer
        >>> quantizer = ResidualQuantizer([FiniteScalarQuantizer([3, 5]) for _ in range(3)])
        >>> quantizer(torch.zeros(7, 2)).indices.shape
        torch.Size([7, 3])
    """

    @typed
    def __init__(self, quantizers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(quantizers)
        if len(self.quantizers) == 0:
            raise ValueError("quantizers: expected at least one, got none")
        dims = [getattr(quantizer, "dim", None) for quantizer in self.quantizers]
        if len(set(dims)) > 1 or None in dims:
            raise ValueError(f"quantizers: expected quantizers of one dim, got {dims}")
        self.dim: int = dims[0]
        # Bounds the indices of every level.
        self.num_codes: int = max(quantizer.num_codes for quantizer in self.quantizers)

    def forward(self, z: Float[Tensor, "*b D"]) -> Quantized:
        """Sum of codes, indices ``[*b, L]``, and the sum of the levels' losses."""
        check_vectors(z, self.dim)
        left = z.to(torch.promote_types(z.dtype, torch.float32))
        total, indices, losses = torch.zeros_like(left), [], []
        for quantizer in self.quantizers:
            codes, index, loss = quantizer(left)
            left, total = left - codes.detach(), total + codes.detach()
            indices.append(index)
            losses.append(loss)
        z_q = straight_through(z, total.to(z.dtype))
        return Quantized(z_q, torch.stack(indices, -1), torch.stack(losses).sum())

    def codes(self, indices: Int[Tensor, "*b L"]) -> Float[Tensor, "*b D"]:
        """Sum of the codes with these numbers; of the first levels, if there are fewer columns."""
        check_indices(indices)
        if indices.ndim == 0 or not 1 <= indices.shape[-1] <= len(self.quantizers):
            shape = tuple(indices.shape)
            raise ValueError(f"indices: expected 1 to {len(self.quantizers)} levels, got {shape}")
        levels = zip(self.quantizers, indices.unbind(-1), strict=False)
        # One after the other, as forward adds them: the same bits.
        return functools.reduce(Tensor.add, (quantizer.codes(index) for quantizer, index in levels))
