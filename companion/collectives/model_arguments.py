"""What the cost model and the simulator accept; every error says what was expected."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

__all__ = ["check_bytes", "check_choice", "check_ranks", "check_seconds"]


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def check_ranks(value: int, *, name: str = "ranks") -> None:
    """Raise unless ``value`` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_seconds(**values: float) -> None:
    """Raise unless each named number is finite and not negative."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {value}")


def check_bytes(value: float | np.ndarray) -> None:
    """Raise unless a size, or each of an array of sizes, is finite and not negative."""
    sizes = np.asarray(value)
    if sizes.dtype.kind not in "iuf":
        raise TypeError(f"bytes must be a number or an array of numbers, got {value!r}")
    if sizes.size and not (np.isfinite(sizes).all() and (sizes >= 0).all()):
        raise ValueError(f"bytes must be finite and at least 0, got {sizes.min()}")
