"""Merging the parts of a cache in one kernel: one program per row, a block of parts at a time.

    lse = log Σ_p e^{lse_p},        out = Σ_p e^{lse_p − lse} out_p

``companion.flash.merge_partials`` does the same in a dozen PyTorch operations, each a launch.
"""

import triton
import triton.language as tl

__all__ = ["merge_kernel"]


@triton.jit(do_not_specialize=["parts"])
def merge_kernel(
    parts_ptr,
    lses_ptr,
    out_ptr,
    lse_ptr,
    rows,
    parts,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One row of (rows, D), from (parts, rows, D) and (parts, rows), all contiguous.

    A part whose log-sum-exp is −inf is not read; a row that is −inf in all gives 0 and −inf.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    m = -float("inf")
    d = 0.0
    out = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)
        at = part.to(tl.int64) * rows + row
        lse = tl.load(lses_ptr + at, mask=part < parts, other=-float("inf"))
        seen = (lse > -float("inf"))[:, None] & (columns < D)[None, :]
        tile = tl.load(parts_ptr + at[:, None] * D + columns[None, :], mask=seen, other=0.0)
        new_m = tl.maximum(m, tl.max(lse, axis=0))
        origin = tl.where(new_m == -float("inf"), 0.0, new_m)
        weights = tl.exp(lse - origin)
        correction = tl.exp(m - origin)
        d = d * correction + tl.sum(weights, axis=0)
        out = out * correction + tl.sum(weights[:, None] * tile, axis=0)
        m = new_m
    total = tl.where(d == 0.0, 1.0, d)
    tl.store(out_ptr + row * D + columns, out / total, mask=columns < D)
    tl.store(lse_ptr + row, m + tl.log(total))
