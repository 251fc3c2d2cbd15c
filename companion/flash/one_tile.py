"""Attention whose scores all fit one tile: no loop, and no more operations than it needs.

    P = softmax(scale · Q Kᵀ)      O = P V      lse = max scores − log max P
    ∂V = Pᵀ ∂O      ∂S = P ∘ (∂O Vᵀ − Δ)      ∂Q = scale · ∂S K      ∂K = scale · ∂Sᵀ Q

The largest weight of a row is 1/Σ e^(s − max s), so that the log-sum-exp costs no second
exponential. The backward pass recomputes P from it, as ``companion.flash.tiled`` does.

Source: Dao 2023 (FlashAttention-2), Algorithms 1 and 2, for one tile.
Chapter: course/09_flash.ipynb.  Dimension key: G key heads of all batch entries, M rows (all query
heads of a key head times their queries), S keys, D width.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from companion.flash.checks import wide_dtype
from companion.flash.masks import Window
from companion.flash.tiled_layout import SIDE, Tiling, fold_heads, hides_keys, pieces

__all__ = ["fits_one_tile", "one_tile_backward", "one_tile_forward"]

# As many of all heads together as stay in cache from one operation to the next.
SCORES = 2**18


def fits_one_tile(q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], window: Window) -> bool:
    """Whether a key head has few scores, and most of them are wanted.

    Not if a query sees no key: softmax has no answer for it.

    Example:
        >>> q, k = torch.empty(1, 2, 256, 16), torch.empty(1, 1, 256, 16)
        >>> fits_one_tile(q, k, Window()), fits_one_tile(q, k, Window(right=0))
        (True, False)
    """
    queries, keys = q.shape[2], k.shape[2]
    wanted = min(queries, keys) <= SIDE or not hides_keys(window, queries, keys)
    answered = window.right is None or keys - queries + window.right >= 0
    return wanted and answered and 0 < _scores(q, k) <= SCORES


def one_tile_forward(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    window: Window,
    scale: float,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """As ``companion.flash.tiled.tiled_forward``, of what ``fits_one_tile``."""
    dtype = wide_dtype(q.dtype)
    q_GMD, k_GSD, v_GSD = _rows(q, k), k.flatten(0, 1), v.flatten(0, 1)
    out_GMD, lse_GM = q.new_empty(q_GMD.shape), q.new_empty(q_GMD.shape[:2], dtype=dtype)
    ceiling_TS = _ceiling_TS(q, k, window, dtype)
    for heads in _heads(q, k):
        tile_q_GMD, tile_k_GSD, tile_v_GSD = (x[heads].to(dtype) for x in (q_GMD, k_GSD, v_GSD))
        scores_GMS = _hide(torch.bmm(tile_q_GMD * scale, tile_k_GSD.mT), ceiling_TS)
        highest_GM = scores_GMS.amax(2)
        weights_GMS = scores_GMS.softmax(2)
        torch.sub(highest_GM, weights_GMS.amax(2).log_(), out=lse_GM[heads])
        out_GMD[heads] = torch.bmm(weights_GMS, tile_v_GSD)
    return out_GMD.view(q.shape), lse_GM.view(q.shape[:3])


def one_tile_backward(
    grad_out: Float[Tensor, "B H T D"],
    grad_lse: Float[Tensor, "B H T"] | None,
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    out: Float[Tensor, "B H T D"],
    lse: Float[Tensor, "B H T"],
    *,
    window: Window,
    scale: float,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
    """As ``companion.flash.tiled.tiled_backward``, of what ``fits_one_tile``."""
    q_GMD, grad_out_GMD, out_GMD = (_rows(x, k) for x in (q, grad_out, out))
    k_GSD, v_GSD = k.flatten(0, 1), v.flatten(0, 1)
    lse_GM1 = lse.reshape(*q_GMD.shape[:2], 1)
    grad_lse_GM1 = None if grad_lse is None else grad_lse.reshape(lse_GM1.shape)
    dq_GMD, dk_GSD, dv_GSD = (x.new_empty(x.shape) for x in (q_GMD, k_GSD, v_GSD))
    ceiling_TS = _ceiling_TS(q, k, window, lse.dtype)
    for heads in _heads(q, k):
        tile_q_GMD, tile_grad_GMD, tile_out_GMD, tile_k_GSD, tile_v_GSD = (
            x[heads].to(lse.dtype) for x in (q_GMD, grad_out_GMD, out_GMD, k_GSD, v_GSD)
        )
        scaled_q_GMD = tile_q_GMD * scale
        delta_GM1 = (tile_grad_GMD * tile_out_GMD).sum(2, keepdim=True)
        if grad_lse_GM1 is not None:
            delta_GM1 -= grad_lse_GM1[heads]
        # β = −1: the product less the statistic of its row.
        scores_GMS = torch.baddbmm(lse_GM1[heads], scaled_q_GMD, tile_k_GSD.mT, beta=-1)
        weights_GMS = _hide(scores_GMS, ceiling_TS).exp_()
        dv_GSD[heads] = torch.bmm(weights_GMS.mT, tile_grad_GMD)
        slopes_GMS = torch.baddbmm(delta_GM1, tile_grad_GMD, tile_v_GSD.mT, beta=-1)
        grad_scores_GMS = slopes_GMS.mul_(weights_GMS)
        dk_GSD[heads] = torch.bmm(grad_scores_GMS.mT, scaled_q_GMD)
        dq_GMD[heads] = torch.bmm(grad_scores_GMS, tile_k_GSD).mul_(scale)
    return dq_GMD.view(q.shape), dk_GSD.view(k.shape), dv_GSD.view(v.shape)


def _scores(q: Tensor, k: Tensor) -> int:
    """Of the query heads that share a key head."""
    return q.shape[1] // k.shape[1] * q.shape[2] * k.shape[2]


def _heads(q: Tensor, k: Tensor) -> Iterator[slice]:
    return pieces(0, k.shape[0] * k.shape[1], SCORES // _scores(q, k))


def _rows(x: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"]) -> Float[Tensor, "G M D"]:
    return fold_heads(x, k.shape[1]).flatten(1, 2)


def _ceiling_TS(q: Tensor, k: Tensor, window: Window, dtype: torch.dtype) -> Tensor | None:
    queries, keys = q.shape[2], k.shape[2]
    whole = Tiling(queries, keys, window, 1, queries, keys)
    return whole.ceiling_TS(slice(0, queries), slice(0, keys), like=q.new_empty(0, dtype=dtype))


def _hide(scores_GMS: Tensor, ceiling_TS: Tensor | None) -> Tensor:
    if ceiling_TS is not None:
        scores_GRTS = scores_GMS.unflatten(1, (-1, len(ceiling_TS)))
        torch.minimum(scores_GRTS, ceiling_TS, out=scores_GRTS)
    return scores_GMS
