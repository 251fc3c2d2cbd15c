"""Attention with the whole T × S matrix in memory: the definition, and the others' oracle."""

import math

from jaxtyping import Bool, Float
from torch import Tensor

from companion.flash.checks import check_attention, check_flag, checked_scale, wide_dtype
from companion.flash.masks import Window, resolve_window, visible_TS

__all__ = ["naive_attention", "naive_forward"]


def naive_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H T D"]:
    """softmax(scale · Q Kᵀ) V, by three matrices of T × S numbers per head.

    Vaswani et al. 2017, §3.2.1. Everything is computed in the inputs' dtype, so that in float64
    this is the oracle, and in a lower precision the error that a fair test allows.
    A query that sees no key gets 0, where a plain softmax would give NaN.

    Args:
        q, k, v: Queries, keys and values. G divides H: query head h reads key head h ÷ (H ÷ G).
        causal: Query i sees no key after position i + S − T.
        window: See ``companion.flash.masks.resolve_window``.
        scale: Multiplies the scores; 1/√D unless told.

    Returns:
        The output, in the inputs' dtype.

    Raises:
        TypeError, ValueError: The inputs do not fit one another.

    Example:
        >>> import torch
        >>> q = k = torch.eye(16)[None, None, :2]
        >>> naive_attention(q, k, k, causal=True, scale=1.0)[0, 0, :, :2]
        tensor([[1.0000, 0.0000],
                [0.2689, 0.7311]])
    """
    check_attention(q, k, v, q_dims="B H T D", k_dims="B G S D")
    check_flag("causal", causal)
    window = resolve_window(window, causal=causal)
    scale = checked_scale(scale, q.shape[-1])
    return _weighted_sum(*_masked_scores(q, k, window=window, scale=scale), v)


def naive_forward(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    window: Window,
    scale: float,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """The same with the log-sum-exp, which is −inf for a query that sees no key."""
    scores_BHTS, blind_T1 = _masked_scores(q, k, window=window, scale=scale)
    lse_BHT = scores_BHTS.to(wide_dtype(q.dtype)).logsumexp(dim=-1)
    lse_BHT = lse_BHT.masked_fill(blind_T1[:, 0], -math.inf)
    return _weighted_sum(scores_BHTS, blind_T1, v), lse_BHT


def _masked_scores(
    q: Tensor, k: Tensor, *, window: Window, scale: float
) -> tuple[Float[Tensor, "B H T S"], Bool[Tensor, "T 1"]]:
    """Scores, −inf where a key is hidden, and which rows see no key; those rows' scores are 0.

    Softmax of a row of −inf is 0/0 in both passes, so such rows are set to 0 before it and after.
    """
    visible = visible_TS(q.shape[2], k.shape[2], window, device=q.device)
    blind_T1 = ~visible.any(dim=1, keepdim=True)
    scores_BHTS = scale * q @ _for_each_query_head(k, q).mT
    return scores_BHTS.masked_fill(~visible, -math.inf).masked_fill(blind_T1, 0.0), blind_T1


def _weighted_sum(scores_BHTS: Tensor, blind_T1: Tensor, v: Tensor) -> Tensor:
    weights_BHTS = scores_BHTS.softmax(dim=-1).masked_fill(blind_T1, 0.0)
    return weights_BHTS @ _for_each_query_head(v, scores_BHTS)


def _for_each_query_head(x_BGSD: Tensor, like_BHTX: Tensor) -> Tensor:
    return x_BGSD.repeat_interleave(like_BHTX.shape[1] // x_BGSD.shape[1], dim=1)
