"""Tiles cover what is seen, once, and nothing that is not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.flash.masks import Window, visible_TS
from companion.flash.tiled_layout import Tiling, fold_heads, hides_keys, pieces, tiling

lengths = st.integers(1, 23)
sizes = st.integers(1, 9)
sides = st.none() | st.integers(0, 12)


@given(lengths, lengths, sides, sides, sizes, sizes)
def test_tiles_by_queries_cover_what_is_seen(queries, keys, left, right, query_tile, key_tile):
    check_cover(Tiling(queries, keys, Window(left, right), 1, query_tile, key_tile), by="queries")


@given(lengths, lengths, sides, sides, sizes, sizes)
def test_tiles_by_keys_cover_what_is_seen(queries, keys, left, right, query_tile, key_tile):
    check_cover(Tiling(queries, keys, Window(left, right), 1, query_tile, key_tile), by="keys")


def check_cover(tiles: Tiling, *, by: str) -> None:
    visible = visible_TS(tiles.queries, tiles.keys, tiles.window)
    visits = torch.zeros(visible.shape, dtype=torch.int)
    for rows, columns in pairs(tiles, by):
        block = visible[rows, columns]
        visits[rows, columns] += 1
        ceiling = tiles.ceiling_TS(rows, columns, like=torch.ones(1, dtype=torch.float64))
        assert block.any()  # a tile that nothing sees is skipped
        if block.all():
            assert ceiling is None
        else:
            assert ceiling.dtype == torch.float64
            assert torch.equal(ceiling == math.inf, block)
            assert torch.equal(ceiling == -math.inf, ~block)
    assert visits.max() <= 1
    assert (visits[visible] == 1).all()


def pairs(tiles: Tiling, by: str):
    if by == "queries":
        return [(q, k) for q in tiles.query_tiles() for k in tiles.key_tiles(q)]
    return [(q, k) for k in tiles.key_tiles() for q in tiles.query_tiles(k)]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 16), st.integers(1, 9000))
def test_a_tile_is_bounded_whatever_the_shape(batch, key_heads, group, length):
    q, k = (torch.empty(batch, h, length, 1) for h in (key_heads * group, key_heads))
    tiles = tiling(q, k, Window(), query_tile=None, key_tile=None)
    rows = tiles.head_tile * group * tiles.query_tile
    assert 1 <= rows * tiles.key_tile <= 2**20
    assert tiles.query_tile <= length
    assert tiles.key_tile <= length


SIDES = st.none() | st.integers(0, 12)


@given(st.integers(1, 9), st.integers(1, 9), SIDES, SIDES)
def test_a_window_hides_keys_if_one_is_not_visible(queries, keys, left, right):
    window = Window(left, right)
    hidden = not visible_TS(queries, keys, window).all()
    # A query before the first key may see none of them; a window wide enough for it is no window.
    assert hides_keys(window, queries, keys) == hidden


@pytest.mark.parametrize(
    ("queries", "keys", "tile"),
    [
        (256, 256, (128, 128)),
        (2048, 2048, (256, 256)),
        (100, 4096, (100, 512)),
        (1, 4096, (1, 512)),
    ],
)
def test_tiles_under_a_window_are_short_enough_to_be_left_out(queries, keys, tile):
    q, k = torch.empty(1, 8, queries, 8), torch.empty(1, 8, keys, 8)
    free, causal = (
        tiling(q, k, window, query_tile=None, key_tile=None)
        for window in (Window(), Window(right=0))
    )
    assert (causal.query_tile, causal.key_tile) == tile
    assert free.query_tile >= causal.query_tile
    assert free.key_tile >= causal.key_tile


def test_the_size_asked_for_is_kept():
    q = torch.empty(1, 2, 100, 8)
    tiles = tiling(q, q, Window(), query_tile=7, key_tile=200)
    assert (tiles.query_tile, tiles.key_tile) == (7, 100)  # but no more than there are


def test_heads_that_share_a_key_head_lie_side_by_side():
    x = torch.arange(2 * 6 * 3).reshape(2, 6, 3)
    folded = fold_heads(x, 3)
    assert folded.shape == (6, 2, 3)
    assert torch.equal(folded[4], x[1, 2:4])
    assert folded.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(("bounds", "count"), [((0, 0), 0), ((5, 5), 0), ((2, 9), 3), ((0, 6), 2)])
def test_pieces_follow_one_another(bounds, count):
    covered = [i for piece in pieces(*bounds, 3) for i in range(piece.start, piece.stop)]
    assert covered == list(range(*bounds))
    assert len(list(pieces(*bounds, 3))) == count
