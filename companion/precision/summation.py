"""Sums in few bits: what each addition loses, and two ways to lose less.

    s_k = fl(s_{k−1} + fl(a_k · b_k))          every product and every sum rounded
    Kahan: y = x_k − c;  t = s + y;  c = (t − s) − y;  s = t      c is what the addition lost

A number that is less than half a unit in the last place of the sum is lost whole. Then the sum
stands still, however many follow. Kahan's c remembers them; stochastic rounding adds a whole unit,
sometimes, and is right on average.

Source: Kahan 1965, CACM 8(1); Higham 2002, Accuracy and Stability of Numerical Algorithms, §4.
Chapter: course/08_precision.ipynb.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from companion.checks import check_tensor, typed
from companion.precision.float_format import BF16, FP16, FP32, FP64, FloatFormat

__all__ = ["DotProduct", "accumulate", "kahan_sum", "stochastic_round"]

_FORMATS = {
    torch.float16: FP16,
    torch.bfloat16: BF16,
    torch.float32: FP32,
    torch.float64: FP64,
}


class DotProduct(NamedTuple):
    """A dot product computed in few bits, and how far it is from the exact one."""

    value: float
    error: float


@typed
def accumulate(a: Tensor, b: Tensor, *, products: FloatFormat, sums: FloatFormat) -> DotProduct:
    """The dot product of two vectors, one term after the other, as a given machine computes it.

    Args:
        a, b: Shape (N,), floating point, with the same N. They are taken as they are: round them
            first where the machine's inputs are short.
        products: Format to which each product is rounded; at most 24 bits of significand.
        sums: Format to which each sum is rounded; at most 24 bits of significand.

    Returns:
        The value, and its difference from the exact sum of the exact products (``math.fsum``); NaN
        where a product or the value is not finite.

    Raises:
        TypeError: The numbers are not floating point.
        ValueError: The shapes are not (N,) and equal, or a format is wider than FP32.

    Example:
        >>> ones = torch.ones(4096)
        >>> accumulate(ones, ones, products=FP16, sums=FP16)  # 2048 + 1 rounds to 2048
        DotProduct(value=2048.0, error=-2048.0)
        >>> accumulate(ones, ones, products=FP16, sums=FP32)
        DotProduct(value=4096.0, error=0.0)
    """
    check_tensor("a", a)
    check_tensor("b", b)
    if a.dim() != 1 or a.shape != b.shape:
        raise ValueError(
            f"expected two vectors of one length, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    for name, format in (("products", products), ("sums", sums)):
        if format.fraction_bits > FP32.fraction_bits:
            raise ValueError(
                f"{name}: expected at most {FP32.fraction_bits} fraction bits, "
                f"got {format.fraction_bits}"
            )
    # float64 holds the product of two significands of 24 bits, and rounding a sum of two first to
    # 53 and then to at most 24 bits is rounding it once (53 ≥ 2·24 + 2).
    exact = a.double() * b.double()
    total = 0.0
    for product in products.round(exact).tolist():
        total = _nearest(sums, total + product)
    terms = [total, *(-exact).tolist()]
    return DotProduct(total, math.fsum(terms) if all(map(math.isfinite, terms)) else math.nan)


@typed
def kahan_sum(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of a vector in a short dtype, with what each addition lost carried along.

    Args:
        values: Shape (N,), rounded to ``dtype`` first.
        dtype: Of all arithmetic: float16, bfloat16, float32 or float64.

    Returns:
        A scalar of ``dtype``, within about two roundings of the exact sum. 0 for no values. NaN and
        infinities, also those of a partial sum, go on as in any sum.

    Source: Kahan 1965, CACM 8(1).

    Raises:
        TypeError: The values are not floating point.
        ValueError: Not a vector, or another dtype.

    Example:
        >>> kahan_sum(torch.ones(4096), torch.float16).item()
        4096.0
    """
    _check_dtype(dtype)
    check_tensor("values", values)
    if values.dim() != 1:
        raise ValueError(f"values: expected shape (N,), got {tuple(values.shape)}")
    total = lost = torch.zeros((), dtype=dtype, device=values.device)
    for value in values.to(dtype):
        corrected = value - lost
        larger = total + corrected
        # Nothing can be carried past infinity: inf − inf would turn it into NaN.
        lost = torch.where(larger.isfinite(), (larger - total) - corrected, 0)
        total = larger
    return total


@typed
def stochastic_round(
    x: Tensor, dtype: torch.dtype, *, generator: torch.Generator | None = None
) -> Tensor:
    """Round each number up or down, with the probabilities that make the mean right.

    Args:
        x: Any shape; a wider floating-point dtype than ``dtype``.
        dtype: float16, bfloat16, float32 or float64.
        generator: None draws from the global one.

    Returns:
        ``dtype``, the shape of ``x``; numbers that ``dtype`` holds are left as they are.

    Source: Gupta et al. 2015, arXiv:1502.02551, §3.

    Raises:
        TypeError: The numbers are not floating point.
        ValueError: Another dtype.

    Example:
        >>> third = torch.full((10_000,), 1 / 3)
        >>> rounded = stochastic_round(third, torch.bfloat16, generator=torch.manual_seed(0))
        >>> len(rounded.unique()), abs(rounded.double().mean().item() - 1 / 3) < 3e-5
        (2, True)
    """
    _check_dtype(dtype)
    check_tensor("x", x)
    rounded = _FORMATS[dtype].round(x.double(), rounding="stochastic", generator=generator)
    return rounded.to(dtype)


def _nearest(format: FloatFormat, value: float) -> float:
    """``format.round`` of one number, a hundred times faster than through a tensor."""
    if not math.isfinite(value):
        return value
    exponent = max(math.frexp(value)[1] - 1, 1 - format.bias)
    ulp = math.ldexp(1.0, exponent - format.fraction_bits)
    rounded = round(value / ulp) * ulp  # Python's round goes to even
    beyond = math.nan if format.finite else math.copysign(math.inf, value)
    return rounded if abs(rounded) <= format.max else beyond


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in _FORMATS:
        names = ", ".join(str(known).removeprefix("torch.") for known in _FORMATS)
        raise ValueError(f"dtype must be one of {names}, got {dtype}")
