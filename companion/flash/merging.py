"""Attention over parts of the keys, merged: the (lse, out) pairs form a commutative monoid.

    lse = log Σ_p e^{lse_p},        out = Σ_p e^{lse_p − lse} out_p

The neutral element is (−inf, anything): a part in which no key is seen. So the keys may be split
anywhere and the parts merged in any order, which is what lets one query use a whole GPU.

Sources: Milakov & Gimelshein 2018, §3.1 (the operator on (m, d), associative and commutative);
Dao et al., "Flash-Decoding", 2023 (its use over parts of a key cache).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from companion.flash.checks import wide_dtype

__all__ = ["merge_partials"]


def merge_partials(
    outs: Float[Tensor, "P *rows D"] | Sequence[Float[Tensor, "*rows D"]],
    lses: Float[Tensor, "P *rows"] | Sequence[Float[Tensor, "*rows"]],
) -> tuple[Float[Tensor, "*rows D"], Float[Tensor, "*rows"]]:
    """Merge the outputs of attention over P disjoint parts of the keys. Differentiable.

    Args:
        outs: Each part's output, normalised by that part alone.
        lses: Each part's log-sum-exp. Where it is −inf, the part's output is not read: it may
            hold anything, NaN included.

    Returns:
        The output in ``outs``' dtype, and the log-sum-exp in float32 (float64 if either is
        float64). A row that is −inf in all parts gives 0 and −inf.

    Raises:
        TypeError: Neither tensors of floating-point numbers nor sequences of them.
        ValueError: There is no part, or the shapes do not fit.

    Example:
        >>> outs, lses = torch.tensor([[1.0], [5.0]]), torch.tensor([1.0, 3.0]).log()
        >>> out, lse = merge_partials(outs, lses)
        >>> out, lse.exp()  # weights 1/4 and 3/4; 1 + 3
        (tensor([4.]), tensor(4.))
    """
    outs, lses = _stacked("outs", outs), _stacked("lses", lses)
    if outs.ndim < 2 or lses.shape != outs.shape[:-1]:
        raise ValueError(
            f"lses: expected the shape of outs without its last dimension, got {tuple(lses.shape)} "
            f"for outs of shape {tuple(outs.shape)}"
        )
    if len(outs) == 0:
        raise ValueError("outs: expected at least one part, got none")
    wide = torch.promote_types(wide_dtype(outs.dtype), wide_dtype(lses.dtype))
    weights, lse = _weights(lses.to(wide))
    unseen = (lses == -math.inf).unsqueeze(-1)
    # 0 · NaN is NaN: an output that was never written must be taken out, not weighted by 0.
    out = (weights.unsqueeze(-1) * outs.to(wide).masked_fill(unseen, 0.0)).sum(dim=0)
    return out.to(outs.dtype), lse


def _weights(lses: Float[Tensor, "P *rows"]) -> tuple[Tensor, Tensor]:
    """e^{lse_p − lse} and lse; 0 and −inf where every part is −inf, without −inf − (−inf)."""
    # The result does not depend on the shift, so no gradient passes through it.
    highest = lses.detach().amax(dim=0)
    shift = highest.masked_fill(highest == -math.inf, 0.0)
    parts = (lses - shift).exp()
    total = parts.sum(dim=0)
    blind = total == 0
    total = total.masked_fill(blind, 1.0)
    return parts / total, (shift + total.log()).masked_fill(blind, -math.inf)


def _stacked(name: str, parts: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(parts, list | tuple):
        if not parts:
            raise ValueError(f"{name}: expected at least one part, got none")
        for part in parts:
            if not isinstance(part, Tensor):
                raise TypeError(f"{name}: expected tensors, got {type(part).__name__}")
        if any(part.shape != parts[0].shape for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise ValueError(f"{name}: expected parts of one shape, got {shapes}")
        parts = torch.stack(tuple(parts))
    if not isinstance(parts, Tensor):
        raise TypeError(f"{name}: expected a tensor or a sequence, got {type(parts).__name__}")
    if not parts.is_floating_point():
        raise TypeError(f"{name}: expected floating-point numbers, got {parts.dtype}")
    return parts
