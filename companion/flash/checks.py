"""What the public functions of this chapter accept; every error says what was expected.

Checks that read only shapes and types are made on entry. Checks that read numbers (offsets,
lengths) are made where the numbers are first used, so that ``torch.compile`` can trace the rest.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor

__all__ = [
    "MAX_WIDTH",
    "MIN_WIDTH",
    "autocasted",
    "check_attention",
    "check_flag",
    "check_integers",
    "check_width",
    "checked_lengths",
    "checked_offsets",
    "checked_scale",
    "wide_dtype",
    "without_autocast",
]

# The kernels multiply tiles of at least 16 columns, and keep one row of D numbers on the chip.
MIN_WIDTH, MAX_WIDTH = 16, 256
LARGEST_SCALE = torch.finfo(torch.float32).max

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WORDS = {"B": "batch size", "D": "head width"}


def check_attention(q: Tensor, k: Tensor, v: Tensor, *, q_dims: str, k_dims: str) -> None:
    """Check queries against keys and values, whose dimensions are named as in "B H T D".

    Raises:
        TypeError: An argument is not a floating-point tensor, or the dtypes differ.
        ValueError: The devices or the shapes do not fit one another.

    Example:
        >>> q, k = torch.ones(1, 3, 5, 16), torch.ones(1, 2, 5, 16)
        >>> check_attention(q, k, k, q_dims="B H T D", k_dims="B G S D")
        Traceback (most recent call last):
        ...
        ValueError: key heads must divide query heads, got 2 key heads for 3 query heads
    """
    for name, x, dims in (("q", q, q_dims), ("k", k, k_dims), ("v", v, k_dims)):
        _check_tensor(name, x, dims)
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected {q.dtype}, as in q, got {x.dtype}")
        if x.device != q.device:
            raise ValueError(f"{name}: expected device {q.device}, as in q, got {x.device}")
    if v.shape != k.shape:
        raise ValueError(f"v: expected the shape of k, {_shown(k)}, got {_shown(v)}")
    sizes = dict(zip(q_dims.split(), q.shape, strict=True))
    for dim, size in zip(k_dims.split(), k.shape, strict=True):
        if dim in sizes and size != sizes[dim]:
            raise ValueError(f"k: expected {_WORDS[dim]} {sizes[dim]}, as in q, got {size}")
        sizes[dim] = size
    _check_sizes(sizes)


def _check_tensor(name: str, x: object, dims: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.ndim != len(dims.split()):
        expected = f"{len(dims.split())} dimensions ({dims})"
        raise ValueError(f"{name}: expected {expected}, got {x.ndim}: {_shown(x)}")


def _check_sizes(sizes: dict[str, int]) -> None:
    """Heads, lengths and width; the batch and a packed run of tokens may be empty."""
    heads, key_heads = sizes["H"], sizes["G"]
    if heads < 1 or key_heads < 1 or heads % key_heads:
        raise ValueError(
            f"key heads must divide query heads, got {key_heads} key heads for {heads} query heads"
        )
    for dim, word in (("T", "queries"), ("S", "keys")):
        if sizes.get(dim, 1) < 1:
            raise ValueError(f"the number of {word} must be at least 1, got {sizes[dim]}")
    if sizes["D"] < 1:
        raise ValueError(f"head width must be at least 1, got {sizes['D']}")


def check_width(q: Tensor) -> None:
    """Check that the head width is one that every back end takes."""
    if not MIN_WIDTH <= q.shape[-1] <= MAX_WIDTH:
        raise ValueError(f"head width must be in [{MIN_WIDTH}, {MAX_WIDTH}], got {q.shape[-1]}")


def check_flag(name: str, value: object) -> None:
    """Check that a switch is True or False, not something that merely counts as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def checked_scale(scale: float | None, width: int) -> float:
    """The factor of the scores: 1/√D unless told.

    Example:
        >>> checked_scale(None, 64)
        0.125
    """
    if scale is None:
        return 1 / math.sqrt(width)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale: expected a number, got {type(scale).__name__}")
    if not abs(scale) <= LARGEST_SCALE:
        raise ValueError(f"scale: expected a finite number, got {scale}")
    return float(scale)


def check_integers(name: str, x: object, *, size: int | None, like: Tensor) -> None:
    """Check a vector of integers that lies beside a tensor, or on the CPU."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor of integers, got {type(x).__name__}")
    if x.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: expected int32 or int64, got {x.dtype}")
    if x.ndim != 1 or (size is not None and x.shape[0] != size):
        expected = "one dimension" if size is None else f"shape ({size},)"
        raise ValueError(f"{name}: expected {expected}, got shape {_shown(x)}")
    if x.device.type != "cpu" and x.device != like.device:
        raise ValueError(f"{name}: expected device {like.device} or cpu, got {x.device}")


def checked_offsets(name: str, offsets: Tensor, tokens: int) -> list[int]:
    """The offsets as integers: sequence b is the tokens offsets[b] … offsets[b + 1] − 1.

    Raises:
        ValueError: They do not rise from 0 to the number of tokens.

    Example:
        >>> checked_offsets("q_offsets", torch.tensor([0, 3, 3, 7]), 7)
        [0, 3, 3, 7]
    """
    numbers = offsets.tolist()
    if not numbers or numbers[0] != 0 or numbers[-1] != tokens:
        raise ValueError(f"{name}: expected to run from 0 to {tokens} tokens, got {numbers}")
    for first, second in pairwise(numbers):
        if second < first:
            raise ValueError(f"{name}: expected no step down, got {first} before {second}")
    return numbers


def checked_lengths(lengths: Tensor, keys: int) -> Tensor:
    """Lengths in [0, S].

    On a GPU they are clamped and not checked: a check would make every token wait for the device.
    """
    if lengths.device.type != "cpu":
        return lengths.clamp(0, keys)
    for length in lengths.tolist():
        if not 0 <= length <= keys:
            raise ValueError(f"lengths must be in [0, {keys}], got {length}")
    return lengths


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and of the log-sum-exp: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocasted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where it is on, by the rule of torch's own attention.

    As there, float64 is left alone.
    """
    if not all(isinstance(x, Tensor) for x in tensors):
        return tensors  # the checks that follow will say so
    kind = tensors[0].device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(
        x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors
    )


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast off on the tensor's device; nothing to enter where it is off already.

    As in ``companion.training.precision``, which needs more packages than this chapter does.
    """
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _shown(x: Tensor) -> str:
    return str(tuple(x.shape))
