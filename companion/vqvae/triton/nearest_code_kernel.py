"""The nearest code of BLOCK_N vectors: blocks of codes pass by, a running minimum stays.

    score_nk = ‖e_k‖² − 2 (z_n − c)·e_k,    index_n = argmin_k score_nk

with codes from which the centre c was already taken. Each block of scores lives in registers and
is reduced there to one minimum and one index per vector: nothing of width K reaches memory.
Chapter: course/03_vqvae.ipynb.
"""

import triton
import triton.language as tl

__all__ = ["nearest_code_kernel"]


@triton.jit(do_not_specialize=["rows"])
def nearest_code_kernel(
    z_ptr,
    centre_ptr,
    codes_ptr,
    norms_ptr,
    indices_ptr,
    z_row_stride,
    z_column_stride,
    rows,
    codes,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per BLOCK_N rows; centre, codes and norms are float32 and contiguous."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    z_row_ptrs = z_ptr + row[:, None] * z_row_stride
    best = tl.full([BLOCK_N], float("inf"), dtype=tl.float32)
    nearest = tl.zeros([BLOCK_N], dtype=tl.int32)
    for first in range(0, codes, BLOCK_K):
        code = first + tl.arange(0, BLOCK_K)
        code_ptrs = codes_ptr + code.to(tl.int64)[None, :] * D
        product = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
        for column in range(0, D, BLOCK_D):
            d = column + tl.arange(0, BLOCK_D)
            z_mask = (row < rows)[:, None] & (d < D)[None, :]
            z = tl.load(z_row_ptrs + d.to(tl.int64)[None, :] * z_column_stride, z_mask, other=0.0)
            centred = z.to(tl.float32) - tl.load(centre_ptr + d, d < D, other=0.0)[None, :]
            code_mask = (d < D)[:, None] & (code < codes)[None, :]
            e = tl.load(code_ptrs + d[:, None], code_mask, other=0.0)
            product = tl.dot(centred, e, product, input_precision=PRECISION)
        # Past the last code the score is infinite, and so never less than the best one.
        score = tl.load(norms_ptr + code, code < codes, other=float("inf")) - 2.0 * product
        least, at = tl.min(score, axis=1, return_indices=True)  # the leftmost of equal ones
        nearer = least < best  # strictly: an equal score further on changes nothing
        nearest = tl.where(nearer, first + at, nearest)
        best = tl.where(nearer, least, best)
    tl.store(indices_ptr + row, nearest.to(tl.int64), row < rows)
