"""A machine with few bits, simulated: every operation's result is rounded, forward and backward.

Numbers live in float32 and are always on the grid of a format. PyTorch computes an operation, and
its result is rounded: the arithmetic of a device that computes inside with more bits and stores
few, the same on every CPU. Products of matrices can also be summed up in the short format, a block
of products at a time, as some units do. What is exempt (a loss, a softmax) stays in float32.

Chapter: course/08_precision.ipynb.  Dimension key: M, K, N sizes of a matrix product.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from companion.checks import check_count, typed
from companion.precision.float_format import FloatFormat

__all__ = ["FewBits", "matmul_with_short_sums"]


class FewBits(TorchDispatchMode):
    """A context in which every float32 result is rounded to a format, gradients included.

    Args:
        format: To which results are rounded.
        short_sums: Sum up matrix products in that format too, instead of in float32.
        block: Products that are summed exactly before each rounding, with ``short_sums``.
        exempt: Names of ATen operations whose results are not rounded, as "_log_softmax".

    Example:
        >>> from companion.precision import FP16
        >>> with FewBits(FP16):
        ...     print((torch.tensor(2048.0) + 1).item())
        2048.0
    """

    @typed
    def __init__(
        self,
        format: FloatFormat,
        *,
        short_sums: bool = False,
        block: int = 1,
        exempt: Collection[str] = (),
    ) -> None:
        super().__init__()
        check_count("block", block)
        self.format, self.block, self.exempt = format, block, frozenset(exempt)
        self._products: dict[str, Callable[..., Tensor]] = {}
        if short_sums:
            self._products = {"mm": self._mm, "addmm": self._addmm, "bmm": self._mm}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        product = self._products.get(name)
        result = product(*args, **(kwargs or {})) if product else func(*args, **(kwargs or {}))
        if name in self.exempt or name.endswith("_") or func.is_view:
            return result
        return tree_map(self._rounded, result)

    def _rounded(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            return self.format.round(value)
        return value

    def _mm(self, a: Tensor, b: Tensor) -> Tensor:
        return matmul_with_short_sums(a, b, self.format, block=self.block)

    def _addmm(self, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return self.format.round(self._mm(a, b) + bias)


@typed
def matmul_with_short_sums(a: Tensor, b: Tensor, sums: FloatFormat, *, block: int = 1) -> Tensor:
    """A matrix product whose running sum is rounded after every ``block`` products.

    Args:
        a, b: Shapes (…, M, K) and (…, K, N), float32.
        sums: Format of the running sum.
        block: Products summed exactly (in float32) before each rounding.

    Returns:
        Shape (…, M, N), float32, on the grid of ``sums``.

    Example:
        >>> from companion.precision import FP16
        >>> ones = torch.ones(1, 4096)
        >>> matmul_with_short_sums(ones, ones.t(), FP16).item()
        2048.0
    """
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = a.new_zeros(*batch, a.shape[-2], b.shape[-1])
    for start in range(0, a.shape[-1], block):
        piece = slice(start, start + block)
        total = sums.round(total + a[..., piece] @ b[..., piece, :])
    return total
