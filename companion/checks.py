"""Arguments that are what they should be: one way to check, and one way to say what came instead.

A wrong type is a TypeError, a wrong value a ValueError; both name the argument, what was expected
and what came.
"""

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["check_count", "check_finite", "check_number", "check_tensor"]


def check_count(name: str, value: object, *, least: int = 1, most: float = math.inf) -> None:
    """A size or a number of things: an integer from ``least`` to ``most``.

    Example:
        >>> check_count("splits", 0)
        Traceback (most recent call last):
        ...
        ValueError: splits must be at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if not least <= value <= most:
        limits = f"at least {least}" if most == math.inf else f"in [{least}, {most}]"
        raise ValueError(f"{name} must be {limits}, got {value}")


def check_number(
    name: str, value: object, *, above: float = -math.inf, least: float = -math.inf
) -> None:
    """A finite real number, more than ``above`` and at least ``least``.

    Example:
        >>> check_number("epsilon", float("nan"), above=0)
        Traceback (most recent call last):
        ...
        ValueError: epsilon must be a finite number more than 0, got nan
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not (math.isfinite(value) and value > above and value >= least):
        limit = f" more than {above}" if above > -math.inf else ""
        limit = f" of at least {least}" if least > -math.inf else limit
        raise ValueError(f"{name} must be a finite number{limit}, got {value}")


def check_tensor(name: str, value: object) -> None:
    """A tensor of floating-point numbers.

    Example:
        >>> check_tensor("x", [1.0])
        Traceback (most recent call last):
        ...
        TypeError: x: expected a tensor, got list
    """
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected floating-point numbers, got {value.dtype}")


def check_finite(name: str, value: "torch.Tensor") -> None:
    """A tensor of finite floating-point numbers.

    Example:
        >>> import torch
        >>> check_finite("x", torch.tensor([1.0, torch.inf]))
        Traceback (most recent call last):
        ...
        ValueError: x: expected finite numbers, got NaN or infinity
    """
    check_tensor(name, value)
    if not value.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
