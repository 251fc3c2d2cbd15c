"""Split-KV decoding: one query per head against a long cache, cut into parts that run at once.

One token gives too few programs to fill a GPU: B · G of them. Cut into P parts, the cache keeps
P · B · G busy; the partial results merge exactly, because (m, d) pairs form a monoid.

Source: Dao et al. 2023, "Flash-Decoding for long-context inference" (PyTorch blog). The query
heads of a group share their keys, so they form one tile and each key is read once.
"""

import triton
import triton.language as tl

from companion.flash.triton.kernels.forward import fold_scores
from companion.flash.triton.kernels.tiles import LN2, head_pointer, load_rows, tile_pointers

__all__ = ["decode_kernel"]


@triton.jit(do_not_specialize=["capacity", "splits"])
def decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    lengths_ptr,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    lse_strides,
    capacity,
    splits,
    key_heads,
    heads_per_key,
    scale_log2,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Normalised output and log-sum-exp of one part of the keys, for the heads of one group.

    Strides: q (batch, key head, head of its group, column), out (split, batch, head, column).
    ``lengths_ptr`` is None where the whole cache of ``capacity`` keys is valid.
    """
    split = tl.program_id(0) % splits
    key_head = tl.program_id(0) // splits % key_heads
    batch = tl.program_id(0) // splits // key_heads
    keys = capacity
    if lengths_ptr is not None:
        keys = tl.load(lengths_ptr + batch).to(tl.int32)
    # Whole tiles for each split, so that no tile is read twice; the last ones may get none.
    share = tl.cdiv(tl.cdiv(keys, splits), BLOCK_N) * BLOCK_N
    # A product of 64 bits, cut to the length before it is narrowed.
    first = tl.minimum(tl.cast(split, tl.int64) * share, keys).to(tl.int32)
    stop = tl.minimum(first + share, keys)

    q_head_ptr = head_pointer(q_ptr, q_strides, batch, key_head, 0)
    q_ptrs = tile_pointers(q_head_ptr, 0, q_strides, BLOCK_M, BLOCK_D)
    q = load_rows(q_ptrs, 0, heads_per_key, D, BLOCK_M, BLOCK_D, True)
    k_head_ptr = head_pointer(k_ptr, k_strides, batch, key_head, 0)
    v_head_ptr = head_pointer(v_ptr, v_strides, batch, key_head, 0)
    out = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    m = tl.full([BLOCK_M], -float("inf"), dtype=tl.float32)
    d = tl.zeros([BLOCK_M], dtype=tl.float32)
    for key in range(first, stop, BLOCK_N):
        k_ptrs = tile_pointers(k_head_ptr, key, k_strides, BLOCK_N, BLOCK_D)
        v_ptrs = tile_pointers(v_head_ptr, key, v_strides, BLOCK_N, BLOCK_D)
        k = load_rows(k_ptrs, key, stop, D, BLOCK_N, BLOCK_D, True)
        v = load_rows(v_ptrs, key, stop, D, BLOCK_N, BLOCK_D, True)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
        valid = (key + tl.arange(0, BLOCK_N))[None, :] < stop
        scores = tl.where(valid, scores, -float("inf"))
        out, m, d = fold_scores(out, m, d, scores, v, PRECISION)

    d = tl.where(d == 0.0, 1.0, d)  # an empty part: out 0 and log-sum-exp −inf
    members = tl.arange(0, BLOCK_M)
    heads = tl.cast(key_head * heads_per_key + members, tl.int64)
    present = members < heads_per_key
    columns = tl.arange(0, BLOCK_D)
    part_ptr = head_pointer(out_ptr, out_strides, split, batch, 0)
    out_ptrs = part_ptr + heads[:, None] * out_strides[2] + columns[None, :]
    tl.store(out_ptrs, out / d[:, None], mask=present[:, None] & (columns < D)[None, :])
    lse_part_ptr = head_pointer(lse_ptr, lse_strides, split, batch, 0)
    tl.store(lse_part_ptr + heads, (m + tl.log2(d)) * LN2, mask=present)
