"""Exact attention tile by tile, in plain tensor operations: no T × S matrix is ever in memory.

Forward, for one tile of queries, over the tiles of keys, with scores s = log₂e · scale · q Kᵀ:

    m′ = max(m, rowmax s)                    p = 2^(s − m′)
    d′ = d · 2^(m − m′) + rowsum p           o′ = o · 2^(m − m′) + p V

and at the end out = o / d, lse = ln 2 · (m + log₂ d). Backward, for one tile of keys, over the
tiles of queries, with Δ = rowsum(out ∘ ∂out) − ∂lse:

    p = 2^(s − log₂e · lse)                  ∂v += pᵀ ∂out
    ∂s = p ∘ (∂out Vᵀ − Δ)                   ∂k += scale · ∂sᵀ q      ∂q += scale · ∂s k

A key head whose scores all fit one tile needs no loop: see ``companion.flash.one_tile``.

Source: the forward is Dao 2023 (FlashAttention-2), Algorithm 1, the backward its Algorithm 2, on
the online softmax of Milakov & Gimelshein 2018; memory that is linear in training too is shown in
Rabe & Staats 2021. We differ in working with powers of 2 and in having ∂lse.
Chapter: course/09_flash.ipynb.  Dimension key of a tile: G key heads, R query heads to a key head,
M rows (all R times the tile's queries), S keys, D width.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from companion.flash.checks import wide_dtype
from companion.flash.masks import Window
from companion.flash.one_tile import fits_one_tile, one_tile_backward, one_tile_forward
from companion.flash.tiled_layout import Tiling, fold_heads, pieces, tiling

__all__ = ["tiled_backward", "tiled_forward"]

LOG2_E, LN_2 = math.log2(math.e), math.log(2)


def tiled_forward(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    window: Window,
    scale: float,
    query_tile: int | None = None,
    key_tile: int | None = None,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """The output in q's dtype, and the natural log-sum-exp of the scaled scores.

    A row that sees no key gets 0 and −∞. Memory beyond the results: a tile of scores, or two.
    """
    if query_tile is key_tile is None and fits_one_tile(q, k, window):
        return one_tile_forward(q, k, v, window=window, scale=scale)
    tiles = tiling(q, k, window, query_tile=query_tile, key_tile=key_tile)
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[:3], dtype=wide_dtype(q.dtype))
    q_GRTD, out_GRTD, lse_GRT = (fold_heads(x, k.shape[1]) for x in (q, out, lse))
    k_GSD, v_GSD = k.flatten(0, 1), v.flatten(0, 1)
    scratch = _scratch(q_GRTD, tiles, lse.dtype)
    for heads in pieces(0, len(k_GSD), tiles.head_tile):
        for queries in tiles.query_tiles():
            q_GMD = _rows(q_GRTD[heads, :, queries], lse.dtype)
            keys_and_values = k_GSD[heads], v_GSD[heads]
            out_GMD, lse_GM1 = _attend(q_GMD, *keys_and_values, queries, tiles, scale, scratch)
            for whole, part in ((out_GRTD, out_GMD), (lse_GRT, lse_GM1)):
                target = whole[heads, :, queries]
                target.copy_(part.view(target.shape))
    return out, lse


def _attend(
    q_GMD: Tensor,
    k_GSD: Tensor,
    v_GSD: Tensor,
    queries: slice,
    tiles: Tiling,
    scale: float,
    scratch: Tensor,
) -> tuple[Tensor, Tensor]:
    """One tile of queries against the keys that they see: their out and lse."""
    out_GMD = q_GMD.new_zeros(q_GMD.shape)  # not zeros_like: it must be contiguous
    sum_GM1 = q_GMD.new_zeros(*q_GMD.shape[:2], 1)
    # The lowest finite number, not −∞: where a row saw nothing yet, −∞ − (−∞) would be NaN.
    highest_GM1 = torch.full_like(sum_GM1, torch.finfo(q_GMD.dtype).min)
    for keys in tiles.key_tiles(queries):
        tile_k_GSD, tile_v_GSD = (x[:, keys].to(q_GMD.dtype) for x in (k_GSD, v_GSD))
        scores_GMS = _shaped(scratch, *q_GMD.shape[:2], keys.stop - keys.start)
        # β = 0: the product alone, times α.
        torch.baddbmm(
            scores_GMS, q_GMD, tile_k_GSD.mT, beta=0, alpha=LOG2_E * scale, out=scores_GMS
        )
        ceiling_TS = tiles.ceiling_TS(queries, keys, like=scores_GMS)
        if ceiling_TS is not None:
            scores_GRTS = scores_GMS.unflatten(1, (-1, len(ceiling_TS)))
            torch.minimum(scores_GRTS, ceiling_TS, out=scores_GRTS)
        before_GM1 = highest_GM1
        highest_GM1 = torch.maximum(before_GM1, scores_GMS.amax(2, keepdim=True))
        weights_GMS = scores_GMS.sub_(highest_GM1).exp2_()
        correction_GM1 = (before_GM1 - highest_GM1).exp2_()
        sum_GM1.mul_(correction_GM1).add_(weights_GMS.sum(2, keepdim=True))
        out_GMD.mul_(correction_GM1).baddbmm_(weights_GMS, tile_v_GSD)
    lse_GM1 = (highest_GM1 + sum_GM1.log2()) * LN_2
    # The sum of a row that saw nothing is 0, and its output is to be 0 / 1.
    return out_GMD.div_(sum_GM1.masked_fill_(sum_GM1 == 0, 1)), lse_GM1


def tiled_backward(
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
    query_tile: int | None = None,
    key_tile: int | None = None,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
    """Gradients of q, k and v in their dtypes, from what the forward returned.

    Every sum is taken in a fixed order. Memory beyond the results: two tiles of scores, and for
    16-bit inputs ∂q in float32, since every tile of keys adds to it.
    """
    if query_tile is key_tile is None and fits_one_tile(q, k, window):
        return one_tile_backward(grad_out, grad_lse, q, k, v, out, lse, window=window, scale=scale)
    tiles = tiling(q, k, window, query_tile=query_tile, key_tile=key_tile)
    dq = q.new_zeros(q.shape, dtype=lse.dtype)
    dk, dv = k.new_empty(k.shape), v.new_empty(v.shape)
    offsets = _row_offsets(grad_out, grad_lse, out, lse, tiles)
    by_query = [fold_heads(x, k.shape[1]) for x in (q, grad_out, dq, *offsets)]
    k_GSD, v_GSD, dk_GSD, dv_GSD = (x.flatten(0, 1) for x in (k, v, dk, dv))
    scratch = _scratch(by_query[0], tiles, lse.dtype, count=2)
    for heads in pieces(0, len(k_GSD), tiles.head_tile):
        rows = [x[heads] for x in by_query]
        for keys in tiles.key_tiles():
            tile = [x[heads, keys].to(lse.dtype) for x in (k_GSD, v_GSD)]
            dk_GSD[heads, keys], dv_GSD[heads, keys] = _attend_backward(
                rows, *tile, keys, tiles, scale, scratch
            )
    return dq.to(q.dtype), dk, dv


def _attend_backward(
    rows: list[Tensor],
    k_GSD: Tensor,
    v_GSD: Tensor,
    keys: slice,
    tiles: Tiling,
    scale: float,
    scratch: Tensor,
) -> tuple[Tensor, Tensor]:
    """One tile of keys against the queries that see them: returns ∂k and ∂v, adds to ∂q.

    A tile of scores is S × M here: two of the three products in which it is a factor then read
    it as it lies in memory.
    """
    q_GRTD, grad_out_GRTD, dq_GRTD, *offsets_GRT = rows
    dk_GSD, dv_GSD = k_GSD.new_zeros(2, *k_GSD.shape)
    for queries in tiles.query_tiles(keys):
        q_GMD, grad_out_GMD = (
            _rows(x[:, :, queries], k_GSD.dtype) for x in (q_GRTD, grad_out_GRTD)
        )
        neg_lse_G1M, neg_delta_G1M = (x[:, :, queries].flatten(1)[:, None] for x in offsets_GRT)
        scores_GSM, slopes_GSM = _shaped(scratch, 2, *k_GSD.shape[:2], q_GMD.shape[1])
        torch.baddbmm(neg_lse_G1M, k_GSD, q_GMD.mT, alpha=LOG2_E * scale, out=scores_GSM)
        ceiling_TS = tiles.ceiling_TS(queries, keys, like=scores_GSM)
        if ceiling_TS is not None:
            scores_GSRT = scores_GSM.unflatten(2, (-1, len(ceiling_TS)))
            # Copied: read across, it would make this operation eight times as slow.
            ceiling_S1T = ceiling_TS.mT.contiguous()[:, None]
            torch.minimum(scores_GSRT, ceiling_S1T, out=scores_GSRT)
        weights_GSM = scores_GSM.exp2_()
        dv_GSD.baddbmm_(weights_GSM, grad_out_GMD)
        torch.baddbmm(neg_delta_G1M, v_GSD, grad_out_GMD.mT, out=slopes_GSM)
        grad_scores_GSM = slopes_GSM.mul_(weights_GSM)
        dk_GSD.baddbmm_(grad_scores_GSM, q_GMD)
        dq_GMD = torch.bmm(grad_scores_GSM.mT, k_GSD)
        dq_GRTD[:, :, queries].add_(
            dq_GMD.unflatten(1, (-1, queries.stop - queries.start)), alpha=scale
        )
    return dk_GSD.mul_(scale), dv_GSD


def _row_offsets(
    grad_out: Tensor, grad_lse: Tensor | None, out: Tensor, lse: Tensor, tiles: Tiling
) -> tuple[Tensor, Tensor]:
    """−log₂e · lse and −Δ of every row.

    The −∞ of a row that sees no key does no harm: such a row is in no tile, as each tile begins
    and ends with queries that see one of its keys.
    """
    neg_delta_BHT = torch.zeros_like(lse) if grad_lse is None else grad_lse.to(lse.dtype, copy=True)
    for queries in tiles.query_tiles():
        products = grad_out[:, :, queries].to(lse.dtype) * out[:, :, queries]
        neg_delta_BHT[:, :, queries] -= products.sum(-1)
    return -LOG2_E * lse, neg_delta_BHT


def _rows(x_GRTD: Tensor, dtype: torch.dtype) -> Float[Tensor, "G M D"]:
    """The rows of all query heads that share a key head, one below the other."""
    return x_GRTD.flatten(1, 2).to(dtype)


def _scratch(q_GRTD: Tensor, tiles: Tiling, dtype: torch.dtype, *, count: int = 1) -> Tensor:
    """Memory for ``count`` tiles of scores, used by one tile after the other."""
    rows = min(tiles.head_tile, len(q_GRTD)) * q_GRTD.shape[1] * tiles.query_tile
    return q_GRTD.new_empty(count * rows * tiles.key_tile, dtype=dtype)


def _shaped(scratch: Tensor, *shape: int) -> Tensor:
    """The beginning of the scratch memory as a tensor of this shape."""
    return scratch[: math.prod(shape)].view(shape)
