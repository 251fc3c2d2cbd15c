"""Attention with the whole T × S matrix in memory: the definition, and the others' oracle."""

import math

from jaxtyping import Float
from torch import Tensor

from companion.flash.masks import resolve_window, visible_TS

__all__ = ["naive_attention"]


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
        window: See `companion.flash.masks.resolve_window`.
        scale: Multiplies the scores; 1/√D unless told.

    Returns:
        The output, in the inputs' dtype.

    Example:
        >>> import torch
        >>> q = k = torch.eye(16)[None, None, :2]
        >>> naive_attention(q, k, k, causal=True, scale=1.0)[0, 0, :, :2]
        tensor([[1.0000, 0.0000],
                [0.2689, 0.7311]])
    """
    heads_per_key = q.shape[1] // k.shape[1]
    k_BHSD, v_BHSD = (x.repeat_interleave(heads_per_key, dim=1) for x in (k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores_BHTS = scale * q @ k_BHSD.mT
    visible = visible_TS(
        q.shape[2], k.shape[2], resolve_window(window, causal=causal), device=q.device
    )
    scores_BHTS = scores_BHTS.masked_fill(~visible, -math.inf)
    # Where a row sees nothing, softmax gives 0/0; both passes must then be 0.
    blind_T1 = ~visible.any(dim=1, keepdim=True)
    weights_BHTS = scores_BHTS.masked_fill(blind_T1, 0.0).softmax(dim=-1)
    return weights_BHTS.masked_fill(blind_T1, 0.0) @ v_BHSD
