"""Attention of one new query to a cache of keys: split-KV, as in Flash-Decoding.

A single query leaves nothing to tile over queries, so the keys are cut into P parts, attended to
independently, and merged: the same monoid that the chapter starts with.

Source: Dao, Haziza, Massa & Sizov, "Flash-Decoding for long-context inference", 2023.
Chapter: course/09_flash.ipynb.  Dimension key: B batch, H query heads, G key heads, R = H ÷ G,
S keys in the cache, D head width, P parts.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from companion.checks import check_count
from companion.flash.backend import chosen_backend
from companion.flash.checks import (
    autocasted,
    check_attention,
    check_flag,
    check_integers,
    check_width,
    checked_lengths,
    checked_scale,
    wide_dtype,
    without_autocast,
)
from companion.flash.merging import merge_partials
from companion.flash.triton.tuning import decode_splits

__all__ = ["flash_decode"]

# On a CPU a part bounds the copy in float32 that is made of the cache.
_CPU_PART = 2048


def flash_decode(
    q: Float[Tensor, "B H D"] | Float[Tensor, "B H 1 D"],
    k_cache: Float[Tensor, "B G S D"],
    v_cache: Float[Tensor, "B G S D"],
    *,
    lengths: Int[Tensor, "B"] | None = None,
    splits: int | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale · q Kᵀ) V for one query per sequence, over the first ``lengths`` keys of each.

    No gradients: use ``flash_attention`` where they are needed.

    Args:
        q: The new query, at the position after which nothing is seen: it sees its whole cache.
        k_cache, v_cache: Keys and values, in q's dtype and on its device. G divides H. What lies
            beyond a sequence's length is not read, be it NaN.
        lengths: How many keys of each sequence are valid, from 0 to S, int32 or int64; None for
            all. Checked on the CPU; on a GPU clamped, since a check would wait for the device.
        splits: P, in how many parts the keys are cut. The result depends on it only in its
            rounding. None: on a GPU enough to occupy every multiprocessor (see
            ``companion.flash.triton.tuning.decode_splits``), elsewhere one part for every 2048
            keys.
        scale: Multiplies the scores; 1/√D unless told.
        return_lse: Return the log-sum-exp too, shaped as q without D.

    Returns:
        The output, shaped as q and in its dtype. A sequence of length 0 gives 0 (and −inf).

    Raises:
        TypeError, ValueError: An argument is not as above.
        RuntimeError: An input requires a gradient, or the back end cannot run here.

    Example:
        >>> q, k = torch.ones(1, 1, 16), torch.zeros(1, 1, 4, 16)
        >>> v = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 1, 4, 16)
        >>> flash_decode(q, k, v, lengths=torch.tensor([3]))[0, 0, 0]  # mean of 0, 1, 2
        tensor(1.)
    """
    q, k_cache, v_cache = autocasted(q, k_cache, v_cache)
    four = isinstance(q, Tensor) and q.ndim == 4
    check_attention(q, k_cache, v_cache, q_dims="B H T D" if four else "B H D", k_dims="B G S D")
    if four and q.shape[2] != 1:
        raise ValueError(f"q: expected one query per sequence, got {q.shape[2]}")
    check_width(q)
    check_flag("return_lse", return_lse)
    _check_no_gradient(q, k_cache, v_cache)
    if lengths is not None:
        check_integers("lengths", lengths, size=q.shape[0], like=q)
    backend = chosen_backend(q.device.type, q.dtype)
    parts = _chosen_splits(splits, q, k_cache, backend)
    factor = checked_scale(scale, q.shape[-1])
    q_BHD = q.squeeze(2) if four else q
    out, lse = _decode(q_BHD, k_cache, v_cache, lengths, parts, factor, backend)
    if four:
        out, lse = out.unsqueeze(2), lse.unsqueeze(2)
    return (out, lse) if return_lse else out


def _check_no_gradient(*tensors: Tensor) -> None:
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise RuntimeError(
            "flash_decode computes no gradients: expected torch.no_grad() or inputs that require "
            "none, got one that does; flash_attention computes them"
        )


def _chosen_splits(splits: int | None, q: Tensor, k_cache: Tensor, backend: str) -> int:
    """P; never more than there are keys."""
    batch, key_heads, keys, _ = k_cache.shape
    if splits is not None:
        check_count("splits", splits)
        return min(splits, keys)
    if backend == "naive":
        return 1
    if q.device.type != "cuda":
        return -(-keys // _CPU_PART)
    processors = torch.cuda.get_device_properties(q.device).multi_processor_count
    return decode_splits(batch * key_heads, keys, processors)


def _decode_op(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | None,
    splits: int,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    if lengths is not None:
        lengths = checked_lengths(lengths, k_cache.shape[2]).to(q.device)
    if backend == "triton":
        from companion.flash.triton.launch import triton_decode, triton_merge

        parts = triton_decode(q, k_cache, v_cache, lengths, splits=splits, scale=scale)
        return triton_merge(*parts, q.dtype)
    with without_autocast(q):
        parts = _partials(q, k_cache, v_cache, lengths, splits=splits, scale=scale)
        out, lse = merge_partials(*parts)
    return out.to(q.dtype), lse


def _partials(
    q_BHD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    lengths_B: Tensor | None,
    *,
    splits: int,
    scale: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Each part's output and log-sum-exp, in float32, or float64 for float64."""
    key_heads, keys = k_BGSD.shape[1:3]
    wide = wide_dtype(q_BHD.dtype)
    q_BGRD = q_BHD.unflatten(1, (key_heads, -1)).to(wide) * scale
    partials = []
    for part in range(splits):
        start, stop = keys * part // splits, keys * (part + 1) // splits
        k_BGsD, v_BGsD = (x[:, :, start:stop].to(wide) for x in (k_BGSD, v_BGSD))
        scores_BGRs = q_BGRD @ k_BGsD.mT
        if lengths_B is not None:
            beyond_Bs = torch.arange(start, stop, device=q_BHD.device) >= lengths_B[:, None]
            scores_BGRs = scores_BGRs.masked_fill(beyond_Bs[:, None, None], -math.inf)
            # Weight 0 is not enough: 0 · NaN is NaN.
            v_BGsD = v_BGsD.masked_fill(beyond_Bs[:, None, :, None], 0.0)
        partials.append(_softmax_sum(scores_BGRs, v_BGsD))
    outs, lses = zip(*partials, strict=True)
    return [x.flatten(1, 2) for x in outs], [x.flatten(1, 2) for x in lses]


def _softmax_sum(scores_BGRs: Tensor, v_BGsD: Tensor) -> tuple[Tensor, Tensor]:
    highest_BGR1 = scores_BGRs.amax(dim=-1, keepdim=True)
    # In a part that lies beyond the length, −inf − (−inf) would be NaN.
    highest_BGR1 = highest_BGR1.masked_fill(highest_BGR1 == -math.inf, 0.0)
    weights_BGRs = (scores_BGRs - highest_BGR1).exp()
    total_BGR1 = weights_BGRs.sum(dim=-1, keepdim=True)
    lse_BGR = (highest_BGR1 + total_BGR1.log()).squeeze(-1)
    return weights_BGRs @ v_BGsD / total_BGR1.masked_fill(total_BGR1 == 0, 1.0), lse_BGR


_decode_operator = torch.library.custom_op("companion::flash_decode", _decode_op, mutates_args=())


@_decode_operator.register_fake
def _(q: Tensor, k_cache: Tensor, v_cache: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=wide_dtype(q.dtype))


def _decode(*arguments: object) -> tuple[Tensor, Tensor]:
    # The operator hides from the compiler what depends on the lengths; eagerly it is only slower.
    run = _decode_operator if torch.compiler.is_compiling() else _decode_op
    return run(*arguments)
