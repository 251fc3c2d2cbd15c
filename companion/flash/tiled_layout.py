"""How the tiled attention is cut: heads into groups, queries and keys into tiles.

A tile of scores holds, for a few key heads at once, the rows of all query heads that read them.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from companion.flash.masks import Window, key_range, query_range, visible_TS

__all__ = ["Tiling", "fold_heads", "hides_keys", "pieces", "tiling"]

# Found by trying, on two cores with 1 MiB of second-level cache each: a tile of this many rows
# and scores is worth the call of an operation, and much of it is still in cache for the next one.
HEADS, ROWS, SCORES = 8, 2048, 2**19
# Where a window hides keys, smaller tiles leave out more of them: at most a quarter of the length
# then, but not below this.
SIDE = 128


class Tiling(NamedTuple):
    """T queries and S keys under a window, and the size of a tile."""

    queries: int
    keys: int
    window: Window
    head_tile: int
    """Key heads of a tile, counted over the whole batch."""
    query_tile: int
    """Queries of each query head."""
    key_tile: int

    def query_tiles(self, keys: slice | None = None) -> Iterator[slice]:
        """All queries; with ``keys``, those tiles alone that see any of these."""
        reach = 0, self.queries
        if keys is not None:
            reach = query_range(keys.start, keys.stop, self.queries, self.keys, self.window)
        return pieces(*reach, self.query_tile)

    def key_tiles(self, queries: slice | None = None) -> Iterator[slice]:
        """All keys; with ``queries``, those tiles alone that any of these sees."""
        reach = 0, self.keys
        if queries is not None:
            reach = key_range(queries.start, queries.stop, self.queries, self.keys, self.window)
        return pieces(*reach, self.key_tile)

    def ceiling_TS(
        self, queries: slice, keys: slice, *, like: Tensor
    ) -> Float[Tensor, "T S"] | None:
        """+∞ where a query of this tile sees a key, −∞ where not; None where it sees them all.

        The smaller of this and the scores is the masked scores. (Adding −∞ would make NaN of a
        hidden +∞, and ``masked_fill_`` takes ten times as long on a CPU.)

        Args:
            queries, keys: The tile.
            like: Gives dtype and device.

        Example:
            >>> causal = Tiling(4, 4, Window(right=0), 1, 2, 2)
            >>> causal.ceiling_TS(slice(2, 4), slice(2, 4), like=torch.ones(1))
            tensor([[inf, -inf],
                    [inf, inf]])
        """
        shift = self.keys - self.queries
        first, last = queries.start + shift, queries.stop - 1 + shift
        left, right = self.window
        if (left is None or last - left <= keys.start) and (
            right is None or keys.stop - 1 <= first + right
        ):
            return None
        height, width = queries.stop - queries.start, keys.stop - keys.start
        # ``visible_TS`` puts the tile's first query at width − height; it is at first − keys.start.
        moved = first - keys.start - (width - height)
        left, right = (
            None if left is None else left - moved,
            None if right is None else right + moved,
        )
        visible = visible_TS(height, width, Window(left, right), device=like.device)
        return torch.where(visible, math.inf, -math.inf).to(like.dtype)


def tiling(
    q: Tensor, k: Tensor, window: Window, *, query_tile: int | None, key_tile: int | None
) -> Tiling:
    """The tile asked for; where None, such that it holds about 2¹⁹ scores.

    Few heads get larger tiles, as an operation must cost more than its call. Where many query
    heads share a key head, each has fewer queries in a tile. A tile that no key is hidden from may
    be as long as the text; else there are several, so that some can be left out.

    Example:
        >>> q, k = torch.empty(2, 12, 100, 64), torch.empty(2, 3, 100, 64)
        >>> tiling(q, k, Window(), query_tile=None, key_tile=50)
        Tiling(queries=100, keys=100, window=Window(left=None, right=None),
               head_tile=6, query_tile=85, key_tile=50)
    """
    batch, key_heads = k.shape[:2]
    queries, keys = q.shape[2], k.shape[2]
    longest_q, longest_k = queries, keys
    if hides_keys(window, queries, keys):
        longest_q, longest_k = max(SIDE, queries // 4), max(SIDE, keys // 4)
    heads = max(1, min(batch * key_heads, HEADS))
    rows_per_query = max(1, heads * q.shape[1] // max(1, key_heads))
    if query_tile is None:
        query_tile = min(max(ROWS // rows_per_query, 16), 512, longest_q)
    query_tile = min(query_tile, queries)
    if key_tile is None:
        key_tile = min(max(SCORES // (rows_per_query * query_tile), 256), 512, longest_k)
    return Tiling(queries, keys, window, heads, query_tile, min(key_tile, keys))


def hides_keys(window: Window, queries: int, keys: int) -> bool:
    """Whether any query does not see some key.

    Example:
        >>> causal = Window(right=0)
        >>> hides_keys(causal, 2, 9), hides_keys(causal, 1, 9), hides_keys(Window(left=8), 2, 9)
        (True, False, False)
    """
    left, right = window
    # The last query is at the last key, the first one queries − 1 before.
    return (left is not None and left < keys - 1) or (right is not None and right < queries - 1)


def pieces(start: int, stop: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` that cover start … stop − 1.

    Example:
        >>> [(piece.start, piece.stop) for piece in pieces(3, 8, 2)]
        [(3, 5), (5, 7), (7, 8)]
    """
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def fold_heads(x: Tensor, key_heads: int) -> Tensor:
    """B × H × … to (B·G) × (H ÷ G) × …: query heads beside the key head that they share.

    A view where the strides allow it: with one batch entry, or where entries are contiguous.
    """
    batch, heads = x.shape[:2]
    return x.reshape(batch * key_heads, heads // key_heads, *x.shape[2:])
