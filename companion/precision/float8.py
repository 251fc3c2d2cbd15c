"""Eight bits need a scale for each tensor, from its largest magnitude.

    amax = max |x|      now ("current"), or the largest of the last calls ("delayed")
    scale = format.max / amax / 2^margin
    codes = round(clamp(scale · x, ±format.max));      x ≈ codes / scale

"Delayed" knows its scale before it sees x, so it needs one pass over x and not two; a tensor that
has just grown is clipped. Casts to eight bits differ between versions and devices in what becomes
of a number that is too large (largest number, infinity or NaN): clamped first, it does not matter.

Source: Micikevicius et al. 2022, arXiv:2209.05433, §3 and §4.
Chapter: course/08_precision.ipynb.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from companion.checks import check_choice, check_count, check_tensor, typed
from companion.precision.float_format import E4M3, E5M2, FloatFormat

__all__ = ["Float8Scaling"]

_DTYPES = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}


class Float8Scaling:
    """Quantizes one tensor of a network, call after call, to an 8-bit format with a scale.

    Args:
        format: ``E4M3`` (weights and activations) or ``E5M2`` (gradients).
        history: Calls whose largest magnitude "delayed" remembers, at least 1.
        margin: Powers of two kept free above the largest magnitude, at least 0.
        mode: "current" looks at the tensor itself; "delayed" at the calls before, and at the
            tensor itself as long as these held nothing but zeros.

    Raises:
        ValueError: Another format or mode; a size out of range.

    Example:
        >>> scaling = Float8Scaling(E4M3, mode="current")
        >>> x = torch.tensor([1.0, -0.5, 0.3])
        >>> codes, scale = scaling.quantize(x)
        >>> codes.float().tolist(), scale.item()
        ([448.0, -224.0, 128.0], 448.0)
        >>> [round(value, 4) for value in scaling.dequantize(codes, scale).tolist()]
        [1.0, -0.5, 0.2857]
    """

    @typed
    def __init__(
        self,
        format: FloatFormat,
        *,
        history: int = 1024,
        margin: int = 0,
        mode: Literal["delayed", "current"] = "delayed",
    ) -> None:
        if format not in _DTYPES:
            raise ValueError(f"format: expected E4M3 or E5M2, got {format}")
        check_count("history", history)
        check_count("margin", margin, least=0)
        check_choice("mode", mode, ("delayed", "current"))
        self.format, self.margin, self.mode = format, margin, mode
        self._history: deque[Tensor] = deque(maxlen=history)
        self._scale = torch.ones(())

    @torch.no_grad()
    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The tensor in eight bits, and its scale.

        Args:
            x: Any shape, floating point. NaN stays NaN; infinities become the largest number.

        Returns:
            codes: ``torch.float8_e4m3fn`` or ``torch.float8_e5m2``, the shape of x.
            scale: A float32 scalar on x's device, by which x was multiplied. Where what it is taken
            from is all zero or not finite, it is that of the call before (1 at the start).
        """
        check_tensor("x", x)
        amax = x.abs().amax().float() if x.numel() else torch.zeros((), device=x.device)
        seen = amax
        if self.mode == "delayed" and self._history:
            remembered = torch.stack(list(self._history)).amax()
            seen = torch.where(remembered > 0, remembered, amax)
        scale = self.format.max / seen / 2**self.margin
        usable = (seen > 0) & scale.isfinite() & (scale > 0)
        self._scale = torch.where(usable, scale, self._scale.to(x.device))
        if amax.isfinite():
            self._history.append(amax)
        scaled = (x.float() * self._scale).clamp(-self.format.max, self.format.max)
        return scaled.to(_DTYPES[self.format]), self._scale

    @staticmethod
    def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
        """The float32 tensor that codes and scale stand for."""
        return codes.float() / scale

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on."""
        return {"history": list(self._history), "scale": self._scale}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; of a longer history the last calls.

        Raises:
            ValueError: It is no such state.
        """
        if state_dict.keys() != {"history", "scale"}:
            raise ValueError(f"expected the keys ['history', 'scale'], got {sorted(state_dict)}")
        self._history.clear()
        self._history.extend(state_dict["history"])
        self._scale = state_dict["scale"]
