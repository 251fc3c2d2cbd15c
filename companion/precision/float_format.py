"""Floating-point formats as integers: every value is a code, and rounding is done on bits.

    value = (−1)^s · 1.f · 2^(e − bias)      e not 0: the leading one is not stored
    value = (−1)^s · 0.f · 2^(1 − bias)      e = 0: zero and the subnormal numbers
    e all ones: infinity (f = 0) or NaN; in a ``finite`` format only s.1…1.1…1 is NaN

Below its sign bit a code grows with its value, and neighbours differ by one. So rounding up is
adding one to a code, and it carries from the fraction into the exponent, from the subnormal to the
normal numbers and from the largest of them to infinity without a special case.

Source: IEEE 754-2019, §3.4 and §4.3; for the two 8-bit formats Micikevicius et al. 2022,
arXiv:2209.05433, §3.
Chapter: course/08_precision.ipynb.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from companion.checks import check_choice, check_count, typed

__all__ = [
    "BF16",
    "E4M3",
    "E5M2",
    "FP16",
    "FP32",
    "FP64",
    "TF32",
    "Fields",
    "FloatFormat",
    "Rounding",
]

Rounding = Literal["nearest", "truncate", "stochastic"]

_FRACTION, _BIAS = 52, 1023  # of float64, in which values live here
_HIDDEN = 1 << _FRACTION


class Fields(NamedTuple):
    """The three parts of a code, as bit strings."""

    sign: str
    exponent: str
    fraction: str


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format with at most 64 bits.

    Values are float64 tensors, which hold every number of such a format exactly; codes are int64
    tensors of the same shape, in [0, 2^bits) (the 64-bit format's negative numbers have negative
    codes, as int64 has no more bits).

    Args:
        exponent_bits: Width of the exponent, in [2, 11].
        fraction_bits: Width of the fraction, in [1, 52].
        bias: What is subtracted from the exponent; None is IEEE's 2^(exponent_bits − 1) − 1.
        finite: No infinities: the highest exponent holds numbers too, and one code is NaN.

    Raises:
        ValueError: A width is out of range, or float64 cannot hold the exponents.

    Example:
        >>> FP16.max, FP16.min_normal, FP16.min_subnormal == 2.0**-24
        (65504.0, 6.103515625e-05, True)
        >>> FP16.fields(-1.5)
        Fields(sign='1', exponent='01111', fraction='1000000000')
    """

    exponent_bits: int
    fraction_bits: int
    bias: int | None = None
    finite: bool = False

    def __post_init__(self) -> None:
        check_count("exponent_bits", self.exponent_bits, least=2, most=11)
        check_count("fraction_bits", self.fraction_bits, most=_FRACTION)
        if not isinstance(self.finite, bool):
            raise TypeError(f"finite: expected True or False, got {self.finite!r}")
        if self.bias is not None:
            check_count("bias", self.bias, least=-(2**11))
        else:
            object.__setattr__(self, "bias", 2 ** (self.exponent_bits - 1) - 1)
        low, high = 1 - self.bias - self.fraction_bits, self._highest_exponent
        if low < 1 - _BIAS - _FRACTION or high > _BIAS:
            raise ValueError(
                f"bias: expected exponents from {1 - _BIAS - _FRACTION} (of the smallest "
                f"subnormal) to {_BIAS}, those of float64, got {low} to {high}"
            )

    @property
    def bits(self) -> int:
        """Width of a code."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next larger number: 2^(−fraction_bits)."""
        return 2.0**-self.fraction_bits

    @property
    def min_normal(self) -> float:
        """The smallest positive number with a hidden one: 2^(1 − bias)."""
        return 2.0 ** (1 - self.bias)

    @property
    def min_subnormal(self) -> float:
        """The smallest positive number: 2^(1 − bias − fraction_bits)."""
        return 2.0 ** (1 - self.bias - self.fraction_bits)

    @cached_property
    def max(self) -> float:
        """The largest finite number."""
        return self.decode(torch.tensor(self._max_code)).item()

    @typed
    def decode(self, bits: Tensor) -> Tensor:
        """The values of codes.

        Args:
            bits: Any shape, integers in [0, 2^bits); for a 64-bit format any int64.

        Returns:
            float64. Every NaN becomes one NaN: its sign and payload are not kept.

        Raises:
            TypeError: The codes are not integers.
            ValueError: A code is out of range.
        """
        codes = self._checked(bits)
        magnitude = codes & (self._sign_bit - 1)
        exponent, fraction = magnitude >> self.fraction_bits, magnitude & (self._hidden - 1)
        # Normal: the same fraction, left-aligned, under float64's bias. Subnormal: counted in
        # units of the smallest one; the product is exact.
        wide = (exponent - self.bias + _BIAS) << _FRACTION
        wide = wide | (fraction << (_FRACTION - self.fraction_bits))
        normal = wide.view(torch.float64)
        value = torch.where(exponent > 0, normal, fraction.double() * self.min_subnormal)
        value = torch.where(magnitude > self._max_code, torch.nan, value)
        if not self.finite:
            value = torch.where(magnitude == self._infinity, torch.inf, value)
        return torch.where(self._is_negative(codes), -value, value)

    @typed
    def encode(
        self,
        values: Tensor,
        *,
        rounding: Rounding = "nearest",
        saturate: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The codes of values, each rounded once.

        Args:
            values: Any shape, any floating-point dtype; computed in float64, which holds them.
            rounding: "nearest", to even where two are equally near; "truncate", towards zero;
                "stochastic", up with the probability that makes the mean right.
            saturate: Give the largest finite number of the same sign for what is too large, and
                for infinity. False gives infinity, or NaN in a format that has none; truncation
                of a finite number never passes the largest one.
            generator: For "stochastic"; None draws from the global one.

        Returns:
            int64. Zeros keep their sign; NaN becomes the positive quiet NaN.
        """
        check_choice("rounding", rounding, ("nearest", "truncate", "stochastic"))
        values = _as_float64(values)
        wide = values.view(torch.int64)
        magnitude = wide & ~(-1 << 63)
        exponent = magnitude >> _FRACTION
        significand = magnitude & (_HIDDEN - 1)
        significand = torch.where(exponent > 0, significand | _HIDDEN, significand)
        exponent = exponent.clamp(min=1) - _BIAS  # value = significand · 2^(exponent − 52)
        lowest = 1 - self.bias
        dropped = _FRACTION - self.fraction_bits + (lowest - exponent).clamp(min=0)
        kept = significand >> dropped.clamp(max=_FRACTION + 2)
        up = self._rounds_up(significand, kept, dropped, rounding, generator)
        code = kept + up + ((exponent - lowest).clamp(min=0) << self.fraction_bits)
        # The exponent's difference may be beyond this format: then the code is too, or has wrapped.
        too_large = (exponent > self._highest_exponent) | (code > self._max_code)
        past = torch.full_like(code, self._max_code if saturate else self._infinity)
        if rounding == "truncate":
            past = torch.where(values.isinf(), past, self._max_code)
        code = torch.where(too_large, past, code)
        code = torch.where(values.isnan(), self._nan, code)
        negative = (wide < 0) & ~values.isnan()
        return torch.where(negative, code | self._sign_mask, code)

    @typed
    def round(
        self,
        values: Tensor,
        *,
        rounding: Rounding = "nearest",
        saturate: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The nearest numbers of this format; the arguments are those of ``encode``.

        Where PyTorch has the format and rounds once, its cast does the work: all finite float32
        numbers to nearest are then those of ``encode``, and so is the way to infinity.

        Returns:
            The dtype of ``values``, if it holds this format's numbers; else float64.
        """
        dtype = _IN_TORCH.get((self.exponent_bits, self.fraction_bits, self.bias, self.finite))
        # From float64 PyTorch goes to 16 bits by way of float32, which rounds twice.
        once = values.dtype != torch.float64 or dtype == torch.float32
        if dtype and once and rounding == "nearest" and not saturate and self._fits(values.dtype):
            return values.detach().to(dtype).to(values.dtype)
        options = {"rounding": rounding, "saturate": saturate, "generator": generator}
        rounded = self.decode(self.encode(values, **options))
        return rounded.to(values.dtype) if self._fits(values.dtype) else rounded

    @typed
    def ulp(self, values: Tensor) -> Tensor:
        """The spacing of this format's numbers at each value (a unit in the last place).

        Returns:
            float64: 2^(e − fraction_bits) for 2^e ≤ \\|value\\| < 2^(e+1), at least
            ``min_subnormal``; NaN for infinities, NaN and beyond the format's exponents.
        """
        values = _as_float64(values)
        exponent = torch.frexp(values).exponent.to(torch.int64) - 1
        spacing = exponent.clamp(min=1 - self.bias) - self.fraction_bits
        spacing = torch.where(values == 0, 1 - self.bias - self.fraction_bits, spacing)
        result = torch.ldexp(torch.ones_like(values), spacing)
        outside = ~values.isfinite() | (exponent > self._highest_exponent)
        return torch.where(outside, torch.nan, result)

    def fields(self, value: float) -> Fields:
        """Sign, exponent and fraction of a number, rounded to this format."""
        code = self.encode(torch.tensor(float(value), dtype=torch.float64)).item()
        text = format(code % (1 << self.bits), f"0{self.bits}b")
        return Fields(text[0], text[1 : 1 + self.exponent_bits], text[1 + self.exponent_bits :])

    @property
    def _hidden(self) -> int:
        return 1 << self.fraction_bits

    @property
    def _sign_bit(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def _sign_mask(self) -> int:
        return -1 << 63 if self.bits == 64 else self._sign_bit

    @property
    def _highest_exponent(self) -> int:
        return 2**self.exponent_bits - (1 if self.finite else 2) - self.bias

    @property
    def _max_code(self) -> int:
        """The largest finite number's; the next code is infinity's or, in a finite format, NaN."""
        ones = self._sign_bit - 1
        return ones - 1 if self.finite else ones - self._hidden

    @property
    def _infinity(self) -> int:
        return self._max_code + 1

    @property
    def _nan(self) -> int:
        """The quiet one: highest bit of the fraction."""
        return self._max_code + 1 if self.finite else self._infinity | (self._hidden >> 1)

    def _is_negative(self, codes: Tensor) -> Tensor:
        return codes < 0 if self.bits == 64 else codes >= self._sign_bit

    def _checked(self, bits: Tensor) -> Tensor:
        if bits.is_floating_point() or bits.is_complex() or bits.dtype == torch.bool:
            raise TypeError(f"bits: expected integers, got {bits.dtype}")
        codes = bits.to(torch.int64)
        if self.bits < 64 and codes.numel():
            low, high = codes.min().item(), codes.max().item()
            if low < 0 or high >= 1 << self.bits:
                raise ValueError(f"bits: expected [0, 2^{self.bits}), got {low} to {high}")
        return codes

    def _fits(self, dtype: torch.dtype) -> bool:
        info = torch.finfo(dtype)
        return (
            self.epsilon >= info.eps
            and self.max <= info.max
            and self.min_subnormal >= info.smallest_normal * info.eps
        )

    @staticmethod
    def _rounds_up(
        significand: Tensor,
        kept: Tensor,
        dropped: Tensor,
        rounding: Rounding,
        generator: torch.Generator | None,
    ) -> Tensor:
        """One where the next larger code is to be taken, given what the dropped bits hold."""
        if rounding == "truncate":
            return torch.zeros_like(kept)
        if rounding == "stochastic":
            # All 53 bits fit a float64, so the share of a unit that is dropped is exact.
            share = torch.ldexp(significand.double(), -dropped) - kept
            device = significand.device
            drawn = torch.rand(share.shape, generator=generator, dtype=share.dtype, device=device)
            return (drawn < share).to(torch.int64)
        dropped = dropped.clamp(max=_FRACTION + 2)  # less than half a unit, from there on
        rest = significand - (kept << dropped)
        doubled, unit = rest << 1, torch.ones_like(rest) << dropped
        return ((doubled > unit) | ((doubled == unit) & (kept & 1 == 1))).to(torch.int64)


_IN_TORCH = {
    (5, 10, 15, False): torch.float16,
    (8, 7, 127, False): torch.bfloat16,
    (8, 23, 127, False): torch.float32,
}


def _as_float64(values: Tensor) -> Tensor:
    if not values.is_floating_point():
        raise TypeError(f"values: expected floating-point numbers, got {values.dtype}")
    return values.detach().to(torch.float64)


FP64 = FloatFormat(11, 52)
FP32 = FloatFormat(8, 23)
TF32 = FloatFormat(8, 10)
FP16 = FloatFormat(5, 10)
BF16 = FloatFormat(8, 7)
E5M2 = FloatFormat(5, 2)
E4M3 = FloatFormat(4, 3, finite=True)
