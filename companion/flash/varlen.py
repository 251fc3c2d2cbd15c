"""Attention over sequences of different lengths, packed end to end without padding.

Sequence b has the queries q_offsets[b] … q_offsets[b+1] − 1 and the keys k_offsets[b] …
k_offsets[b+1] − 1, and sees no other sequence.

Chapter: course/09_flash.ipynb.  Dimension key: N packed queries, M packed keys, H query heads,
G key heads, D head width, B sequences.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from companion.flash.backend import chosen_backend
from companion.flash.checks import (
    autocasted,
    check_attention,
    check_flag,
    check_integers,
    check_width,
    checked_offsets,
    checked_scale,
    wide_dtype,
    without_autocast,
)
from companion.flash.masks import Window, resolve_window
from companion.flash.naive import naive_forward
from companion.flash.operators import attention_operator
from companion.flash.tiled import tiled_backward, tiled_forward

__all__ = ["flash_attention_varlen"]


def flash_attention_varlen(
    q: Float[Tensor, "N H D"],
    k: Float[Tensor, "M G D"],
    v: Float[Tensor, "M G D"],
    *,
    q_offsets: Int[Tensor, "B+1"],
    k_offsets: Int[Tensor, "B+1"],
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    deterministic: bool = True,
) -> Float[Tensor, "N H D"] | tuple[Float[Tensor, "N H D"], Float[Tensor, "H N"]]:
    """``flash_attention`` of each sequence of a pack, in one call, with gradients.

    Args:
        q, k, v: As in ``flash_attention``, but with the tokens of all sequences in one dimension.
        q_offsets, k_offsets: Where each sequence starts, and last where the pack ends: int32 or
            int64, on the CPU or beside q. A sequence may be empty.
        causal, window: Within each sequence; positions are aligned at its last query and key.
        scale, return_lse, deterministic: As in ``flash_attention``.

    Returns:
        The output and, if asked, the log-sum-exp. A query whose sequence has no keys gets 0, −inf.

    Raises:
        TypeError, ValueError: An argument is not as above.
        RuntimeError: The back end cannot run here; see ``attention_backend``.

    Example:
        >>> v = torch.arange(3.0).reshape(3, 1, 1).expand(3, 1, 16)
        >>> starts = torch.tensor([0, 2, 3])  # two tokens, then one
        >>> q = torch.zeros(3, 1, 16)
        >>> flash_attention_varlen(q, q, v, q_offsets=starts, k_offsets=starts)[:, 0, 0]
        tensor([0.5000, 0.5000, 2.0000])
    """
    q, k, v = autocasted(q, k, v)
    check_attention(q, k, v, q_dims="N H D", k_dims="M G D")
    check_width(q)
    for name, flag in (
        ("causal", causal),
        ("return_lse", return_lse),
        ("deterministic", deterministic),
    ):
        check_flag(name, flag)
    check_integers("q_offsets", q_offsets, size=None, like=q)
    check_integers("k_offsets", k_offsets, size=q_offsets.shape[0], like=q)
    seen = resolve_window(window, causal=causal)
    factor = checked_scale(scale, q.shape[-1])
    backend = chosen_backend(q.device.type, q.dtype)
    if backend == "naive":
        out, lse = _naive(q, k, v, q_offsets, k_offsets, window=seen, scale=factor)
    else:
        settings = (seen.left, seen.right, factor, backend)
        out, lse = _attention(q, k, v, q_offsets, k_offsets, *settings)
    return (out, lse) if return_lse else out


def _sequences(
    q: Tensor, k: Tensor, q_offsets: Tensor, k_offsets: Tensor
) -> Iterator[tuple[slice, slice]]:
    """Each sequence's queries and keys."""
    queries = pairwise(checked_offsets("q_offsets", q_offsets, q.shape[0]))
    keys = pairwise(checked_offsets("k_offsets", k_offsets, k.shape[0]))
    for (q_start, q_stop), (k_start, k_stop) in zip(queries, keys, strict=True):
        yield slice(q_start, q_stop), slice(k_start, k_stop)


def _alone(x_NHD: Tensor, tokens: slice) -> Float[Tensor, "1 H T D"]:
    return x_NHD[tokens].transpose(0, 1).unsqueeze(0)


def _naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    *,
    window: Window,
    scale: float,
) -> tuple[Tensor, Tensor]:
    outs, lses = [q[:0]], [q.new_empty(q.shape[1], 0, dtype=wide_dtype(q.dtype))]
    for queries, keys in _sequences(q, k, q_offsets, k_offsets):
        alone = (_alone(x, tokens) for x, tokens in ((q, queries), (k, keys), (v, keys)))
        out, lse = naive_forward(*alone, window=window, scale=scale)
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
    return torch.cat(outs), torch.cat(lses, dim=1)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    left: int | None,
    right: int | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    settings = {"window": Window(left, right), "scale": scale}
    with without_autocast(q):
        if backend == "triton":
            from companion.flash.triton.launch import triton_varlen_forward

            offsets = _triton_offsets(q, k, q_offsets, k_offsets)
            return triton_varlen_forward(q, k, v, **offsets, **settings)
        return _tiled_forward(q, k, v, q_offsets, k_offsets, settings)


def _tiled_forward(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, k_offsets: Tensor, settings: dict
) -> tuple[Tensor, Tensor]:
    out = q.new_zeros(q.shape)
    lse = q.new_full((q.shape[1], q.shape[0]), -math.inf, dtype=wide_dtype(q.dtype))
    for queries, keys in _sequences(q, k, q_offsets, k_offsets):
        if _empty(queries) or _empty(keys):
            continue  # no keys: zeros and −inf, as filled
        alone = (_alone(x, tokens) for x, tokens in ((q, queries), (k, keys), (v, keys)))
        out_1HTD, lse_1HT = tiled_forward(*alone, **settings)
        out[queries] = out_1HTD[0].transpose(0, 1)
        lse[:, queries] = lse_1HT[0]
    return out, lse


def _backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    out: Tensor,
    lse: Tensor,
    left: int | None,
    right: int | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    settings = {"window": Window(left, right), "scale": scale}
    tensors = (grad_out, grad_lse, q, k, v, out, lse)
    with without_autocast(q):
        if backend == "triton":
            from companion.flash.triton.launch import triton_varlen_backward

            offsets = _triton_offsets(q, k, q_offsets, k_offsets)
            return triton_varlen_backward(*tensors, **offsets, **settings)
        return _tiled_backward(*tensors, q_offsets, k_offsets, settings)


def _tiled_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    settings: dict,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_zeros(x.shape) for x in (q, k, v))
    for queries, keys in _sequences(q, k, q_offsets, k_offsets):
        if _empty(queries) or _empty(keys):
            continue
        gradients = tiled_backward(
            _alone(grad_out, queries),
            None if grad_lse is None else grad_lse[None, :, queries],
            _alone(q, queries),
            _alone(k, keys),
            _alone(v, keys),
            _alone(out, queries),
            lse[None, :, queries],
            **settings,
        )
        for whole, tokens, part in zip((dq, dk, dv), (queries, keys, keys), gradients, strict=True):
            whole[tokens] = part[0].transpose(0, 1)
    return dq, dk, dv


def _empty(tokens: slice) -> bool:
    return tokens.start == tokens.stop


def _triton_offsets(
    q: Tensor, k: Tensor, q_offsets: Tensor, k_offsets: Tensor
) -> dict[str, Tensor | int]:
    """What the kernels want to know: the offsets beside q, and the longest sequence's length."""
    q_starts = checked_offsets("q_offsets", q_offsets, q.shape[0])
    k_starts = checked_offsets("k_offsets", k_offsets, k.shape[0])
    return {
        "q_offsets": q_offsets.to(q.device),
        "k_offsets": k_offsets.to(q.device),
        "longest_q": max((stop - start for start, stop in pairwise(q_starts)), default=0),
        "longest_k": max((stop - start for start, stop in pairwise(k_starts)), default=0),
    }


_attention = attention_operator("flash_attention_varlen", _forward, _backward, fold_dim=1)
