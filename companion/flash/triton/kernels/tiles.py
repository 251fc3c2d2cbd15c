"""What all kernels share: where a tile lies in memory, what it must load, which keys it sees.

Every offset that grows with a stride is 64 bits wide: a row number times a row stride passes 2³¹
elements long before memory is full.
"""

import triton
import triton.language as tl

__all__ = [
    "LN2",
    "LOG2E",
    "head_pointer",
    "load_rows",
    "sequence_at",
    "store_rows",
    "tile_pointers",
    "tile_ranges",
    "visible",
]

# exp(x) = exp2(x · log2 e): the GPU has an instruction for exp2, and none for exp.
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def sequence_at(offsets_ptr, index, count):
    """(first row, number of rows) of a sequence: of a packed one, or of a plain batch entry."""
    if offsets_ptr is None:
        return tl.cast(0, tl.int64), count
    else:  # noqa: RET505 — the branch that is not taken must not be compiled
        first = tl.load(offsets_ptr + index).to(tl.int64)
        end = tl.load(offsets_ptr + index + 1).to(tl.int64)
        return first, (end - first).to(tl.int32)


@triton.jit
def head_pointer(ptr, strides, batch, head, first_row):
    """Where row 0 of one head of one sequence begins."""
    batch_offset = tl.cast(batch, tl.int64) * strides[0]
    head_offset = tl.cast(head, tl.int64) * strides[1]
    return ptr + batch_offset + head_offset + first_row * strides[2]


@triton.jit
def tile_pointers(head_ptr, row, strides, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """ROWS × COLUMNS pointers from ``row`` on; any stride in either direction."""
    rows = tl.cast(row, tl.int64) + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS).to(tl.int64)
    return head_ptr + rows[:, None] * strides[2] + columns[None, :] * strides[3]


@triton.jit
def load_rows(
    ptrs,
    row,
    count,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The tile at ``ptrs``; 0 past column D and, if MASKED, past row ``count``."""
    inside = (row + tl.arange(0, ROWS))[:, None] < count
    within = tl.arange(0, COLUMNS)[None, :] < D
    if MASKED and D < COLUMNS:
        return tl.load(ptrs, mask=inside & within, other=0.0)
    elif MASKED:  # noqa: RET505
        return tl.load(ptrs, mask=inside, other=0.0)
    elif D < COLUMNS:
        return tl.load(ptrs, mask=within, other=0.0)
    else:
        return tl.load(ptrs)


@triton.jit
def store_rows(ptrs, tile, row, count, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write what lies before row ``count`` and column D, in the dtype that ``ptrs`` point to."""
    inside = (row + tl.arange(0, ROWS))[:, None] < count
    within = tl.arange(0, COLUMNS)[None, :] < D
    tl.store(ptrs, tile.to(ptrs.dtype.element_ty), mask=inside & within)


@triton.jit
def tile_ranges(first, end, shift, before, after, count, BLOCK: tl.constexpr):
    """Which of ``count`` items the rows first … end − 1 see, as (start, free, masked, stop).

    Row i sees item j when i + shift − before ≤ j ≤ i + shift + after. The items from ``free`` to
    ``masked`` form whole tiles that every row sees in full; the tiles of start … free and of
    masked … stop need a mask; nothing else is seen. All but ``stop`` are multiples of BLOCK.
    With keys as rows and queries as items, ``before`` and ``after`` change places.
    """
    # Numbers are made non-negative before a division: Triton's rounds towards 0, Python's down.
    start = 0
    free = 0
    stop = count
    masked = count // BLOCK * BLOCK
    if before is not None:
        start = tl.maximum(first + shift - before, 0) // BLOCK * BLOCK
        free = tl.cdiv(tl.maximum(end - 1 + shift - before, 0), BLOCK) * BLOCK
    if after is not None:
        stop = tl.minimum(tl.maximum(end + shift + after, 0), count)
        seen_by_first = tl.maximum(first + shift + after + 1, 0)
        masked = tl.minimum(masked, seen_by_first // BLOCK * BLOCK)
    free = tl.minimum(free, stop)
    return start, free, tl.maximum(masked, free), stop


@triton.jit
def visible(positions, keys, key_count, left, right):
    """Where a query at a position sees a key; ``positions`` and ``keys`` broadcast."""
    seen = keys < key_count
    if left is not None:
        seen = seen & (keys >= positions - left)
    if right is not None:
        seen = seen & (keys <= positions + right)
    return seen
