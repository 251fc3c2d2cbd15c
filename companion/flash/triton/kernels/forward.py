"""The forward kernel: one program folds all keys into one tile of queries, in one pass.

Per query: the maximum m of the scores so far, d = Σ 2^(s−m), and O = Σ 2^(s−m) v, all in float32
and in units of log2. A new tile with a larger maximum rescales d and O by 2^(m−m′).

Source: Dao 2023 (FlashAttention-2, arXiv:2307.08691), §3.1, Algorithm 1.
"""

import triton
import triton.language as tl

from companion.flash.triton.kernels.tiles import (
    LN2,
    head_pointer,
    load_rows,
    sequence_at,
    store_rows,
    tile_pointers,
    tile_ranges,
    visible,
)

__all__ = ["fold_scores", "forward_kernel"]


@triton.jit
def fold_scores(out, m, d, scores, v, PRECISION: tl.constexpr):
    """Fold a tile of scores (log2 units; −inf where hidden) and its values into (out, m, d)."""
    new_m = tl.maximum(m, tl.max(scores, axis=1))
    # A row that has seen no key yet: −inf − (−inf) would be NaN.
    origin = tl.where(new_m == -float("inf"), 0.0, new_m)
    weights = tl.exp2(scores - origin[:, None])
    correction = tl.exp2(m - origin)
    d = d * correction + tl.sum(weights, axis=1)
    out = out * correction[:, None]
    out = tl.dot(weights.to(v.dtype), v, out, input_precision=PRECISION)
    return out, new_m, d


@triton.jit
def _fold_keys(
    out,
    m,
    d,
    q,
    k_head_ptr,
    v_head_ptr,
    k_strides,
    v_strides,
    first,
    stop,
    first_position,
    keys,
    left,
    right,
    scale_log2,
    MASKED: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Fold the keys of tiles first … stop; MASKED where a tile may hold keys not to be seen."""
    for key in range(first, stop, BLOCK_N):
        k_ptrs = tile_pointers(k_head_ptr, key, k_strides, BLOCK_N, BLOCK_D)
        v_ptrs = tile_pointers(v_head_ptr, key, v_strides, BLOCK_N, BLOCK_D)
        k = load_rows(k_ptrs, key, keys, D, BLOCK_N, BLOCK_D, MASKED)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
        if MASKED:
            positions = first_position + tl.arange(0, BLOCK_M)
            key_numbers = key + tl.arange(0, BLOCK_N)
            seen = visible(positions[:, None], key_numbers[None, :], keys, left, right)
            scores = tl.where(seen, scores, -float("inf"))
        v = load_rows(v_ptrs, key, keys, D, BLOCK_N, BLOCK_D, MASKED)
        out, m, d = fold_scores(out, m, d, scores, v, PRECISION)
    return out, m, d


@triton.jit(do_not_specialize=["longest_queries", "longest_keys", "left", "right"])
def forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    lse_strides,
    q_offsets_ptr,
    k_offsets_ptr,
    longest_queries,
    longest_keys,
    heads,
    heads_per_key,
    left,
    right,
    scale_log2,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Output and log-sum-exp of BLOCK_M queries of one head.

    Strides are those of (batch, head, row, column) in elements. ``left`` and ``right`` are None
    where the window is open; the offsets are None unless sequences are packed.
    """
    tiles = tl.cdiv(longest_queries, BLOCK_M)
    tile = tl.program_id(0) % tiles
    head = tl.program_id(0) // tiles % heads
    batch = tl.program_id(0) // tiles // heads
    if right is not None:
        tile = tiles - 1 - tile  # the last queries see the most keys: begin with the longest work
    q_first, queries = sequence_at(q_offsets_ptr, batch, longest_queries)
    k_first, keys = sequence_at(k_offsets_ptr, batch, longest_keys)
    row = tile * BLOCK_M
    if row >= queries:  # a shorter sequence than the longest of the pack
        return
    q_head_ptr = head_pointer(q_ptr, q_strides, batch, head, q_first)
    k_head_ptr = head_pointer(k_ptr, k_strides, batch, head // heads_per_key, k_first)
    v_head_ptr = head_pointer(v_ptr, v_strides, batch, head // heads_per_key, k_first)
    q_ptrs = tile_pointers(q_head_ptr, row, q_strides, BLOCK_M, BLOCK_D)
    q = load_rows(q_ptrs, row, queries, D, BLOCK_M, BLOCK_D, True)

    shift = keys - queries
    end = tl.minimum(row + BLOCK_M, queries)
    start, free, masked, stop = tile_ranges(row, end, shift, left, right, keys, BLOCK_N)
    out = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    m = tl.full([BLOCK_M], -float("inf"), dtype=tl.float32)
    d = tl.zeros([BLOCK_M], dtype=tl.float32)
    out, m, d = _fold_keys(
        out, m, d, q, k_head_ptr, v_head_ptr, k_strides, v_strides, free, masked,
        row + shift, keys, left, right, scale_log2,
        False, D, BLOCK_D, BLOCK_M, BLOCK_N, PRECISION,
    )  # fmt: skip
    out, m, d = _fold_keys(
        out, m, d, q, k_head_ptr, v_head_ptr, k_strides, v_strides, masked, stop,
        row + shift, keys, left, right, scale_log2,
        True, D, BLOCK_D, BLOCK_M, BLOCK_N, PRECISION,
    )  # fmt: skip
    if left is not None:
        out, m, d = _fold_keys(
            out, m, d, q, k_head_ptr, v_head_ptr, k_strides, v_strides, start, free,
            row + shift, keys, left, right, scale_log2,
            True, D, BLOCK_D, BLOCK_M, BLOCK_N, PRECISION,
        )  # fmt: skip

    d = tl.where(d == 0.0, 1.0, d)  # a row that saw no key: out 0 and log-sum-exp −inf
    out_head_ptr = head_pointer(out_ptr, out_strides, batch, head, q_first)
    out_ptrs = tile_pointers(out_head_ptr, row, out_strides, BLOCK_M, BLOCK_D)
    store_rows(out_ptrs, out / d[:, None], row, queries, D, BLOCK_M, BLOCK_D)
    lse_head_ptr = head_pointer(lse_ptr, lse_strides, batch, head, q_first)
    rows = row + tl.arange(0, BLOCK_M)
    lse = (m + tl.log2(d)) * LN2  # natural: the exponents above were in units of log2
    tl.store(lse_head_ptr + rows, lse, mask=rows < queries)
