"""What "reduce" means: the operations, the dtypes they have a meaning for, and the mean's division.

    sum, mean:  own + received        mean ends with one division by P
    prod:       own · received
    max, min:   the larger, smaller; NaN wherever one of the two is NaN

Every result of a hop is rounded to the tensor's own dtype, as gloo and NCCL do.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.checks import check_choice

__all__ = ["Op"]

_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_COMPLEX = {torch.complex64, torch.complex128}

_COMBINE: dict[str, Callable[..., Tensor]] = {
    "sum": torch.add,
    "mean": torch.add,
    "prod": torch.mul,
    "max": torch.maximum,
    "min": torch.minimum,
}
_DTYPES = {
    "sum": _INTEGERS | _FLOATS | _COMPLEX,
    "mean": _FLOATS | _COMPLEX,
    "prod": _INTEGERS | _FLOATS | _COMPLEX,
    "max": _INTEGERS | _FLOATS | {torch.bool},
    "min": _INTEGERS | _FLOATS | {torch.bool},
}


@dataclass(frozen=True)
class Op:
    """One way to reduce the ranks' tensors to one.

    Args:
        name: "sum", "mean", "max", "min" or "prod".

    Raises:
        ValueError: If the name is another one.

    Example:
        >>> own = torch.tensor([1.0, 5.0])
        >>> Op("mean").combine_(own, torch.tensor([3.0, 7.0]))
        >>> Op("mean").finish_(own, ranks=2)
        >>> own
        tensor([2., 6.])
    """

    name: str

    def __post_init__(self) -> None:
        check_choice("op", self.name, _COMBINE)

    def check(self, dtype: torch.dtype) -> None:
        """Refuse a dtype for which the operation has no meaning.

        Raises:
            TypeError: In that case.
        """
        if dtype not in _DTYPES[self.name]:
            allowed = sorted(str(d).removeprefix("torch.") for d in _DTYPES[self.name])
            got = str(dtype).removeprefix("torch.")
            raise TypeError(f"{self.name} is not defined for {got}, only for {', '.join(allowed)}")

    def combine_(self, own: Tensor, received: Tensor) -> None:
        """own ← own ∘ received, in place."""
        _COMBINE[self.name](own, received, out=own)

    @property
    def adding(self) -> "Op":
        """The operation without its end: "sum" for the mean."""
        return Op("sum") if self.name == "mean" else self

    def finish_(self, total: Tensor, *, ranks: int) -> None:
        """What is left once every rank's contribution is in: the mean's division by P.

        It happens once per element, at the element's owner. Dividing at every hop instead, or
        each rank's summand beforehand, would round P times.
        """
        if self.name == "mean":
            total.div_(ranks)
