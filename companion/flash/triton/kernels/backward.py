"""The backward kernels: Δ and dQ by query tiles, then dK and dV by key tiles.

P is computed again from the log-sum-exp L, so nothing of size T × S was kept:

    P = exp(s·QKᵀ − L),   dV = Pᵀ dO,   dP = dO Vᵀ,   dS = P ∘ (dP − Δ),
    dQ = s·dS K,   dK = s·dSᵀ Q,   Δ = rowsum(O ∘ dO) − dL

Source: Dao et al. 2022 (arXiv:2205.14135), Appendix B.2; dL, the gradient of L, enters because
∂L/∂S = P. Difference: theirs is one pass that adds into dQ from all key tiles at once, by atomics
and so in no fixed order, after a pass for Δ; our two compute P twice, give the same bits every
time, and the first of them has all of O and dO that Δ asks for.
"""

import triton
import triton.language as tl

from companion.flash.triton.kernels.tiles import (
    LOG2E,
    head_pointer,
    load_rows,
    sequence_at,
    store_rows,
    tile_pointers,
    tile_ranges,
    visible,
)

__all__ = ["dkdv_kernel", "dq_kernel"]


@triton.jit(do_not_specialize=["longest_queries", "longest_keys", "left", "right"])
def dkdv_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,
    lse_ptr,
    delta_ptr,
    dk_ptr,
    dv_ptr,
    q_strides,
    k_strides,
    v_strides,
    grad_out_strides,
    lse_strides,
    dk_strides,
    q_offsets_ptr,
    k_offsets_ptr,
    longest_queries,
    longest_keys,
    key_heads,
    heads_per_key,
    left,
    right,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dK and dV of BLOCK_N keys of one key head, from all the query heads that read it."""
    tiles = tl.cdiv(longest_keys, BLOCK_N)
    # The first keys are seen by the most queries: the longest work begins first, as it should.
    tile = tl.program_id(0) % tiles
    key_head = tl.program_id(0) // tiles % key_heads
    batch = tl.program_id(0) // tiles // key_heads
    q_first, queries = sequence_at(q_offsets_ptr, batch, longest_queries)
    k_first, keys = sequence_at(k_offsets_ptr, batch, longest_keys)
    key = tile * BLOCK_N
    if key >= keys:  # a shorter sequence than the longest of the pack
        return
    k_head_ptr = head_pointer(k_ptr, k_strides, batch, key_head, k_first)
    k_ptrs = tile_pointers(k_head_ptr, key, k_strides, BLOCK_N, BLOCK_D)
    k = load_rows(k_ptrs, key, keys, D, BLOCK_N, BLOCK_D, True)
    v_head_ptr = head_pointer(v_ptr, v_strides, batch, key_head, k_first)
    v_ptrs = tile_pointers(v_head_ptr, key, v_strides, BLOCK_N, BLOCK_D)
    v = load_rows(v_ptrs, key, keys, D, BLOCK_N, BLOCK_D, True)

    shift = keys - queries
    end = tl.minimum(key + BLOCK_N, keys)
    # Key j is seen from j − shift − right to j − shift + left: the sides change places.
    start, free, masked, stop = tile_ranges(key, end, -shift, right, left, queries, BLOCK_M)
    dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    steps = tl.cdiv(tl.maximum(stop - start, 0), BLOCK_M)
    for step in range(0, heads_per_key * steps):
        row = start + step % steps * BLOCK_M
        rows = row + tl.arange(0, BLOCK_M)
        head = key_head * heads_per_key + step // steps
        q_head_ptr = head_pointer(q_ptr, q_strides, batch, head, q_first)
        grad_head_ptr = head_pointer(grad_out_ptr, grad_out_strides, batch, head, q_first)
        lse_head_ptr = head_pointer(lse_ptr, lse_strides, batch, head, q_first)
        delta_head_ptr = head_pointer(delta_ptr, lse_strides, batch, head, q_first)
        q_ptrs = tile_pointers(q_head_ptr, row, q_strides, BLOCK_M, BLOCK_D)
        q = load_rows(q_ptrs, row, queries, D, BLOCK_M, BLOCK_D, True)
        # Past the last query all of q, dO, L and Δ are 0: P is 1 there, and adds 0.
        lse = tl.load(lse_head_ptr + rows, mask=rows < queries, other=0.0)
        delta = tl.load(delta_head_ptr + rows, mask=rows < queries, other=0.0)
        scores_NM = tl.dot(k, tl.trans(q), input_precision=PRECISION) * (scale * LOG2E)
        weights_NM = tl.exp2(scores_NM - (lse * LOG2E)[None, :])
        if (row < free) | (row >= masked):
            key_numbers = key + tl.arange(0, BLOCK_N)
            seen = visible((rows + shift)[None, :], key_numbers[:, None], keys, left, right)
            weights_NM = tl.where(seen, weights_NM, 0.0)
        grad_ptrs = tile_pointers(grad_head_ptr, row, grad_out_strides, BLOCK_M, BLOCK_D)
        grad = load_rows(grad_ptrs, row, queries, D, BLOCK_M, BLOCK_D, True)
        dv = tl.dot(weights_NM.to(grad.dtype), grad, dv, input_precision=PRECISION)
        grad_weights_NM = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
        grad_scores_NM = weights_NM * (grad_weights_NM - delta[None, :])
        dk = tl.dot(grad_scores_NM.to(q.dtype), q, dk, input_precision=PRECISION)
    dk_head_ptr = head_pointer(dk_ptr, dk_strides, batch, key_head, k_first)
    dk_ptrs = tile_pointers(dk_head_ptr, key, dk_strides, BLOCK_N, BLOCK_D)
    store_rows(dk_ptrs, dk * scale, key, keys, D, BLOCK_N, BLOCK_D)
    dv_head_ptr = head_pointer(dv_ptr, dk_strides, batch, key_head, k_first)
    dv_ptrs = tile_pointers(dv_head_ptr, key, dk_strides, BLOCK_N, BLOCK_D)
    store_rows(dv_ptrs, dv, key, keys, D, BLOCK_N, BLOCK_D)


@triton.jit
def _fold_keys(
    dq,
    q,
    grad,
    lse,
    delta,
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
    """Add what the keys of tiles first … stop give to dQ."""
    for key in range(first, stop, BLOCK_N):
        k_ptrs = tile_pointers(k_head_ptr, key, k_strides, BLOCK_N, BLOCK_D)
        v_ptrs = tile_pointers(v_head_ptr, key, v_strides, BLOCK_N, BLOCK_D)
        k = load_rows(k_ptrs, key, keys, D, BLOCK_N, BLOCK_D, MASKED)
        v = load_rows(v_ptrs, key, keys, D, BLOCK_N, BLOCK_D, MASKED)
        scores_MN = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
        weights_MN = tl.exp2(scores_MN - (lse * LOG2E)[:, None])
        if MASKED:
            positions = first_position + tl.arange(0, BLOCK_M)
            key_numbers = key + tl.arange(0, BLOCK_N)
            seen = visible(positions[:, None], key_numbers[None, :], keys, left, right)
            weights_MN = tl.where(seen, weights_MN, 0.0)
        grad_weights_MN = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
        grad_scores_MN = weights_MN * (grad_weights_MN - delta[:, None])
        dq = tl.dot(grad_scores_MN.to(k.dtype), k, dq, input_precision=PRECISION)
    return dq


@triton.jit(do_not_specialize=["longest_queries", "longest_keys", "left", "right"])
def dq_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,
    lse_ptr,
    delta_ptr,
    out_ptr,
    grad_lse_ptr,
    dq_ptr,
    q_strides,
    k_strides,
    v_strides,
    grad_out_strides,
    lse_strides,
    grad_lse_strides,
    dq_strides,
    q_offsets_ptr,
    k_offsets_ptr,
    longest_queries,
    longest_keys,
    heads,
    heads_per_key,
    left,
    right,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dQ of BLOCK_M queries of one head, and their Δ, which ``dkdv_kernel`` reads.

    The shape of the forward kernel, without its maximum. O lies in memory as dQ does; dL is 0
    where ``grad_lse_ptr`` is None.
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
    q_ptrs = tile_pointers(q_head_ptr, row, q_strides, BLOCK_M, BLOCK_D)
    q = load_rows(q_ptrs, row, queries, D, BLOCK_M, BLOCK_D, True)
    grad_head_ptr = head_pointer(grad_out_ptr, grad_out_strides, batch, head, q_first)
    grad_ptrs = tile_pointers(grad_head_ptr, row, grad_out_strides, BLOCK_M, BLOCK_D)
    grad = load_rows(grad_ptrs, row, queries, D, BLOCK_M, BLOCK_D, True)
    rows = row + tl.arange(0, BLOCK_M)
    lse_head_ptr = head_pointer(lse_ptr, lse_strides, batch, head, q_first)
    lse = tl.load(lse_head_ptr + rows, mask=rows < queries, other=0.0)
    out_head_ptr = head_pointer(out_ptr, dq_strides, batch, head, q_first)
    out_ptrs = tile_pointers(out_head_ptr, row, dq_strides, BLOCK_M, BLOCK_D)
    out = load_rows(out_ptrs, row, queries, D, BLOCK_M, BLOCK_D, True)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), axis=1)
    if grad_lse_ptr is not None:
        grad_lse_head_ptr = head_pointer(grad_lse_ptr, grad_lse_strides, batch, head, q_first)
        grad_lse_ptrs = grad_lse_head_ptr + rows.to(tl.int64) * grad_lse_strides[2]
        delta -= tl.load(grad_lse_ptrs, mask=rows < queries, other=0.0).to(tl.float32)
    delta_head_ptr = head_pointer(delta_ptr, lse_strides, batch, head, q_first)
    tl.store(delta_head_ptr + rows, delta, mask=rows < queries)
    k_head_ptr = head_pointer(k_ptr, k_strides, batch, head // heads_per_key, k_first)
    v_head_ptr = head_pointer(v_ptr, v_strides, batch, head // heads_per_key, k_first)

    shift = keys - queries
    end = tl.minimum(row + BLOCK_M, queries)
    start, free, masked, stop = tile_ranges(row, end, shift, left, right, keys, BLOCK_N)
    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    dq = _fold_keys(
        dq, q, grad, lse, delta, k_head_ptr, v_head_ptr, k_strides, v_strides, free, masked,
        row + shift, keys, left, right, scale * LOG2E,
        False, D, BLOCK_D, BLOCK_M, BLOCK_N, PRECISION,
    )  # fmt: skip
    dq = _fold_keys(
        dq, q, grad, lse, delta, k_head_ptr, v_head_ptr, k_strides, v_strides, masked, stop,
        row + shift, keys, left, right, scale * LOG2E,
        True, D, BLOCK_D, BLOCK_M, BLOCK_N, PRECISION,
    )  # fmt: skip
    if left is not None:
        dq = _fold_keys(
            dq, q, grad, lse, delta, k_head_ptr, v_head_ptr, k_strides, v_strides, start, free,
            row + shift, keys, left, right, scale * LOG2E,
            True, D, BLOCK_D, BLOCK_M, BLOCK_N, PRECISION,
        )  # fmt: skip
    dq_head_ptr = head_pointer(dq_ptr, dq_strides, batch, head, q_first)
    dq_ptrs = tile_pointers(dq_head_ptr, row, dq_strides, BLOCK_M, BLOCK_D)
    store_rows(dq_ptrs, dq * scale, row, queries, D, BLOCK_M, BLOCK_D)
