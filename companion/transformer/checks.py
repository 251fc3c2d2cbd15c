"""What the model and its cache are given; every error says what was expected and what came."""

import torch
from torch import Tensor

from companion.transformer.config import TransformerConfig

__all__ = ["check_integers", "check_new", "check_pass", "check_shape"]


def check_integers(name: str, x: object, *, below: int) -> None:
    """A tensor of integers from 0 to below a bound.

    Example:
        >>> check_integers("tokens", torch.tensor([3, 11]), below=11)
        Traceback (most recent call last):
        ...
        ValueError: tokens: expected integers in [0, 10], got 3 to 11
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: expected a tensor of int32 or int64, got {_kind(x)}")
    # On a GPU this would make every step wait for the device.
    if x.device.type == "cpu" and ((x < 0) | (x >= below)).any():
        found = f"{x.min()} to {x.max()}"
        raise ValueError(f"{name}: expected integers in [0, {below - 1}], got {found}")


def check_shape(name: str, x: Tensor, *shapes: tuple[int, ...]) -> None:
    """A tensor of one of some shapes."""
    if x.shape not in shapes:
        either = " or ".join(dict.fromkeys(map(str, shapes)))
        raise ValueError(f"{name}: expected shape {either}, got {tuple(x.shape)}")


def check_pass(
    tokens_BT: object, mask: object, positions: object, *, past: int, config: TransformerConfig
) -> None:
    """What one pass of the model takes, after ``past`` entries of a cache."""
    check_integers("tokens", tokens_BT, below=config.vocabulary)
    if tokens_BT.ndim != 2 or tokens_BT.shape[1] < 1:
        got = tuple(tokens_BT.shape)
        raise ValueError(f"tokens: expected shape (B, T) with T at least 1, got {got}")
    batch, count = tokens_BT.shape
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask: expected a tensor of booleans, got {_kind(mask)}")
        seen = (count, past + count)
        check_shape("mask", mask, seen, (batch, 1, *seen), (1, 1, *seen))
    most = config.max_length
    if positions is not None:
        check_integers("positions", positions, below=most)
        check_shape("positions", positions, (count,), (batch, count))
    elif past + count > most:
        raise ValueError(f"expected at most {most} positions, got {past} and {count} more")


def check_new(name: str, x: Tensor, place: Tensor) -> None:
    """New keys or values that fit their place in a cache, and have no gradient to lose."""
    for word in ("shape", "dtype", "device"):
        expected, got = getattr(place, word), getattr(x, word)
        if got != expected:
            raise ValueError(f"{name}: expected {word} {expected}, as in the cache, got {got}")
    if x.requires_grad:
        raise ValueError(
            f"{name}: expected no gradient, since a cache loses it: call the model under "
            "torch.no_grad(); got one that needs it"
        )


def _kind(x: object) -> str:
    return str(getattr(x, "dtype", type(x).__name__))
