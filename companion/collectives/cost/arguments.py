"""What the cost model and the simulator accept; every error says what was expected."""

import numpy as np

from companion.checks import check_number

__all__ = ["check_bytes", "check_seconds"]


def check_seconds(**values: float) -> None:
    """Raise unless each named number is finite and not negative."""
    for name, value in values.items():
        check_number(name, value, least=0)


def check_bytes(value: float | np.ndarray) -> None:
    """Raise unless a size, or each of an array of sizes, is finite and not negative."""
    sizes = np.asarray(value)
    if sizes.dtype.kind not in "iuf":
        raise TypeError(f"bytes must be a number or an array of numbers, got {value!r}")
    if sizes.size and not (np.isfinite(sizes).all() and (sizes >= 0).all()):
        raise ValueError(f"bytes must be finite and at least 0, got {sizes.min()}")
