"""Softmax in three passes over its row, and in two, by a sum that may be rescaled.

    m ← max(m, x)        d ← d · exp(m_before − m) + exp(x − m)

The pair (m, d) stands for d · exp(m): the sum of the exponentials seen so far, kept in a form that
does not overflow. Pairs can be merged, in any order and in any grouping.

Source: Milakov & Gimelshein 2018, arXiv:1805.02867: algorithm 2 (safe), algorithm 3 (online) and
§3.1 (merging). Difference: they take one number at a time, we take a block.
Chapter: course/09_flash.ipynb.  Dimension key: N numbers of a row.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_count, check_tensor, typed

__all__ = [
    "Normaliser",
    "OnlineTrace",
    "merge_normalisers",
    "normaliser",
    "online_softmax",
    "safe_softmax",
]


class Normaliser(NamedTuple):
    """What a softmax must know of a set of numbers: Σ exp(x) = d · exp(m).

    Fields:
        m: Their maximum; −inf where there is none, or all of them are −inf.
        d: Σ exp(x − m); 0 where m is −inf.
    """

    m: Float[Tensor, "..."]
    d: Float[Tensor, "..."]


class OnlineTrace(NamedTuple):
    """The running maximum and the running sum after each block.

    Fields:
        m: Maximum of all blocks so far.
        d: Σ exp(x − m) over all blocks so far, with that m.
    """

    m: Float[Tensor, "... blocks"]
    d: Float[Tensor, "... blocks"]


def safe_softmax(x: Float[Tensor, "... N"]) -> Float[Tensor, "... N"]:
    """Softmax of each row in three passes: the maximum, the sum, the quotients.

        y = exp(x − m) / Σ exp(x − m),    m = max(x)

    Source: Milakov & Gimelshein 2018, algorithm 2. Difference: a row of −inf alone gives zeros.

    Args:
        x: At least one number in a row. Below float32 the sum is made in float32.

    Returns:
        The softmax, in ``x``'s dtype.

    Raises:
        TypeError: ``x`` is not floating point.
        ValueError: The rows are empty.

    Example:
        >>> safe_softmax(torch.tensor([1000.0, 1000.0, -math.inf]))
        tensor([0.5000, 0.5000, 0.0000])
    """
    wide = _widened(x)
    m = wide.amax(dim=-1, keepdim=True)
    d = _exp_above(wide, m).sum(dim=-1, keepdim=True)
    return _quotients(wide, Normaliser(m, d)).to(x.dtype)


def online_softmax(
    x: Float[Tensor, "... N"], *, block: int
) -> tuple[Float[Tensor, "... N"], OnlineTrace]:
    """Softmax of each row in two passes: maximum and sum together, block by block; quotients.

    Source: Milakov & Gimelshein 2018, algorithm 3. Difference: a row of −inf alone gives zeros.

    Args:
        x: At least one number in a row. Below float32 everything is computed in float32.
        block: Numbers taken at a time, at least 1; the last block may be shorter.

    Returns:
        The softmax, in ``x``'s dtype; what m and d were after each block, at least in float32.

    Raises:
        TypeError: ``x`` is not floating point, or ``block`` is not an integer.
        ValueError: The rows are empty, or ``block`` is below 1.

    Example:
        >>> y, trace = online_softmax(torch.tensor([0.0, 0.0, 3.0]), block=1)
        >>> trace.m, trace.d  # the third number rescales what was summed: 2 · exp(0 − 3) + 1
        (tensor([0., 0., 3.]), tensor([1.0000, 2.0000, 1.0996]))
    """
    check_count("block", block)
    wide = _widened(x)
    so_far = _nothing(wide)
    trace = []
    for part in wide.split(block, dim=-1):
        so_far = merge_normalisers(so_far, normaliser(part))
        trace.append(so_far)
    m, d = (torch.stack(values, dim=-1) for values in zip(*trace, strict=True))
    whole = Normaliser(so_far.m[..., None], so_far.d[..., None])
    return _quotients(wide, whole).to(x.dtype), OnlineTrace(m, d)


def normaliser(x: Float[Tensor, "... N"]) -> Normaliser:
    """The pair (m, d) of each row.

    Example:
        >>> normaliser(torch.tensor([2.0, 2.0, -math.inf]))
        Normaliser(m=tensor(2.), d=tensor(2.))
    """
    m = x.amax(dim=-1, keepdim=True)
    return Normaliser(m[..., 0], _exp_above(x, m).sum(dim=-1))


@typed
def merge_normalisers(
    first: tuple[Float[Tensor, "..."], Float[Tensor, "..."]],
    second: tuple[Float[Tensor, "..."], Float[Tensor, "..."]],
) -> Normaliser:
    """The pair (m, d) of two sets of numbers together, from the pair of each.

        m = max(m₁, m₂)        d = d₁ · exp(m₁ − m) + d₂ · exp(m₂ − m)

    Associative and commutative, with (−inf, 0), the pair of no numbers, as its identity: a
    commutative monoid.

    Source: Milakov & Gimelshein 2018, §3.1, the operator ⊕. Difference: −inf is allowed.

    Example:
        >>> row = torch.tensor([1.0, 5.0, 5.0])
        >>> merge_normalisers(normaliser(row[:1]), normaliser(row[1:]))
        Normaliser(m=tensor(5.), d=tensor(2.0183))
        >>> normaliser(row)
        Normaliser(m=tensor(5.), d=tensor(2.0183))
    """
    for name, pair in (("first", first), ("second", second)):
        if len(pair) != 2:
            raise ValueError(f"{name}: expected a pair (m, d), got {len(pair)} things")
        check_tensor(f"{name}'s m", pair[0])
        check_tensor(f"{name}'s d", pair[1])
    (m1, d1), (m2, d2) = first, second
    try:
        torch.broadcast_shapes(m1.shape, d1.shape, m2.shape, d2.shape)
    except RuntimeError:
        got = " and ".join(str(tuple(m.shape)) for m in (m1, m2))
        raise ValueError(f"first and second: expected equal shapes, got {got}") from None
    m = torch.maximum(m1, m2)
    return Normaliser(m, d1 * _exp_above(m1, m) + d2 * _exp_above(m2, m))


def _exp_above(x: Tensor, m: Tensor) -> Tensor:
    """exp(x − m), where m ≥ x; 0 where both are −inf, and −inf − (−inf) would be NaN."""
    return torch.exp(x - m.masked_fill(m == -math.inf, 0.0))


def _quotients(x: Tensor, whole: Normaliser) -> Tensor:
    # d ≥ 1 wherever a number is finite; where none is, 0/1 in place of 0/0.
    return _exp_above(x, whole.m) / whole.d.masked_fill(whole.d == 0, 1.0)


def _nothing(x: Tensor) -> Normaliser:
    """The pair of no numbers, for each row of ``x``."""
    return Normaliser(x.new_full(x.shape[:-1], -math.inf), x.new_zeros(x.shape[:-1]))


def _widened(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must have at least one number in a row, got shape {tuple(x.shape)}")
    return x if x.dtype == torch.float64 else x.float()
