"""Arguments that are what they should be: one way to check, and one way to say what came instead.

A wrong type is a TypeError, a wrong value a ValueError; both name the argument, what was expected
and what came.
"""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = ["check_choice", "check_count", "check_finite", "check_number", "check_tensor", "typed"]

F = TypeVar("F", bound=Callable[..., Any])


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
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """A finite real number, more than ``above``, at least ``least`` and at most ``most``.

    Example:
        >>> check_number("epsilon", float("nan"), above=0)
        Traceback (most recent call last):
        ...
        ValueError: epsilon must be a finite number more than 0, got nan
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not (math.isfinite(value) and above < value and least <= value <= most):
        limit = f" more than {above}" if above > -math.inf else ""
        limit = f" of at least {least}" if least > -math.inf else limit
        if most < math.inf:
            limit = f" in {f'({above}' if above > -math.inf else f'[{least}'}, {most:g}]"
        raise ValueError(f"{name} must be a finite number{limit}, got {value}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """One of some strings.

    Example:
        >>> check_choice("duplex", "none", ("full", "half"))
        Traceback (most recent call last):
        ...
        ValueError: duplex must be one of full, half, got 'none'
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


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


def typed(function: F) -> F:
    """Check that each argument is of the kind that its annotation says, before the call.

    Only what a value is: a number, a module, a callable, a tensor of floating-point numbers.
    Ranges and shapes are for the function to check, as it knows what they mean. Costs some
    microseconds a call, so not for what a training step calls many times.

    Raises:
        TypeError: From the call, naming the argument, what was expected and what came.

    Example:
        >>> @typed
        ... def scaled(width: int, by: float | None = None) -> float:
        ...     return width * (by or 1)
        >>> scaled(3, "2")
        Traceback (most recent call last):
        ...
        TypeError: by: expected a number or None, got '2'
    """
    signature = inspect.signature(function)
    kinds = typing.get_type_hints(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in kinds and not _is(value, kinds[name]):
                expected, got = _words(kinds[name]), _shown(value)
                if isinstance(value, str) and "a sequence" in expected:
                    got = f"one string: [{value!r}]?"
                raise TypeError(f"{name}: expected {expected}, got {got}")
        return function(*args, **kwargs)

    return typing.cast("F", call)


def _is(value: object, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        return any(_is(value, option) for option in typing.get_args(kind))
    if hasattr(kind, "array_type"):  # jaxtyping's: Float[Tensor, "n d"]
        return isinstance(value, kind.array_type) and _element(value) in kind.dtypes
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if origin is typing.Literal:
        return isinstance(value, str)
    parts = typing.get_args(kind)
    if origin is type:
        return isinstance(value, type) and issubclass(value, parts)
    if origin is Mapping:
        pairs = value.items() if isinstance(value, Mapping) else [(None, None)]
        return all(_is(key, parts[0]) and _is(one, parts[1]) for key, one in pairs)
    if origin in (Sequence, Iterable):  # sets, arrays and iterators serve as well
        if hasattr(value, "dtype"):
            return parts[0] in (int, float)
        elements = value if isinstance(value, list | tuple) else ()
        several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
        return several and all(_is(one, parts[0]) for one in elements)
    kind = origin or kind
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _element(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _words(kind: Any) -> str:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(_words(option) for option in typing.get_args(kind))
    if hasattr(kind, "array_type"):
        floating = "float32" in kind.dtypes
        return f"a tensor of {'floating-point numbers' if floating else 'integers'}"
    origin = typing.get_origin(kind) or kind
    if origin in (Sequence, Iterable, Mapping, type):
        one, *more = map(_words, typing.get_args(kind))
        several = f"a mapping (of {one} to {more[0]})" if more else f"a sequence (each {one})"
        return f"a subclass of {one}" if origin is type else several
    names = {int: "an integer", float: "a number", type(None): "None"}
    names |= {str: "a string", typing.Literal: "a string"}
    known = "nn." if getattr(origin, "__module__", "").startswith("torch.nn.") else ""
    return names.get(origin) or known + getattr(origin, "__name__", str(origin))


def _shown(value: object) -> str:
    if value is None or isinstance(value, str | Real):
        return repr(value)
    if isinstance(value, type):
        return f"class {value.__name__}"
    kind = type(value).__name__
    if isinstance(value, list | tuple) and value:
        return f"{kind} with {', '.join(dict.fromkeys(type(one).__name__ for one in value))}"
    return (
        f"{kind} of {value.dtype}" if hasattr(value, "dtype") and hasattr(value, "shape") else kind
    )
