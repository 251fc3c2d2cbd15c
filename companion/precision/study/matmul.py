"""A matrix product as a unit with short sums computes it.

Chapter: course/08_precision.ipynb.  Dimension key: M, K, N sizes of a matrix product.
"""

import torch
from torch import Tensor

from companion.checks import check_count, typed
from companion.precision.float_format import FloatFormat

__all__ = ["matmul_with_short_sums"]


@typed
def matmul_with_short_sums(a: Tensor, b: Tensor, sums: FloatFormat, *, block: int = 1) -> Tensor:
    """A matrix product whose running sum is rounded after every ``block`` products.

    Args:
        a, b: Shapes (…, M, K) and (…, K, N), float32.
        sums: Format of the running sum.
        block: Products summed in float32 before each rounding.

    Returns:
        Shape (…, M, N), float32, on the grid of ``sums``.

    Example:
        >>> from companion.precision import FP16
        >>> ones = torch.ones(1, 4096)
        >>> matmul_with_short_sums(ones, ones.t(), FP16).item()
        2048.0
    """
    check_count("block", block)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = a.new_zeros(*batch, a.shape[-2], b.shape[-1])
    for start in range(0, a.shape[-1], block):
        piece = slice(start, start + block)
        total = sums.round(total + a[..., piece] @ b[..., piece, :])
    return total
