"""What the drawings of chapter 09 say: the numbers in them, by hand, and the kinds of tile."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.flash.masks import Window, key_range, resolve_window
from companion.flash.study.figures import (
    FULL,
    MASKED,
    SKIPPED,
    describe_tile_map,
    draw_growth,
    draw_roofline,
    draw_tile_map,
    draw_time_against_bytes,
    tile_kinds,
)
from companion.flash.study.row_by_tiles import RowByTiles
from companion.flash.study.schematics import draw_memories, draw_owners
from companion.measure.roofline import Ceilings

MIB = 2**20


pytestmark = pytest.mark.usefixtures("no_window")


@pytest.fixture
def row():
    """Weights 1, 2, 4, 1, 8 of 16: after tiles of two, the sums are 3, 8 and 16."""
    scores = torch.tensor([1.0, 2, 4, 1, 8], dtype=torch.float64).log()
    values = torch.tensor([[0.0, 3], [3, 0], [8, 8], [0, 8], [16, 0]], dtype=torch.float64)
    return RowByTiles(scores, values, block=2)


def test_the_row_by_hand(row):
    assert row.steps == range(4)
    assert row.after(0) == (-math.inf, 0, [0, 0])
    expected = {
        1: (math.log(2), 3 / 2, [6 / 3, 3 / 3]),
        2: (math.log(4), 8 / 4, [38 / 8, 43 / 8]),
        3: (math.log(8), 16 / 8, [166 / 16, 43 / 16]),
    }
    for step, (m, d, out) in expected.items():
        got_m, got_d, got_out = row.after(step)
        assert (got_m, got_d) == pytest.approx((m, d))
        assert got_out == pytest.approx(out)


def test_the_frames_of_the_row(row):
    explore = pytest.importorskip("companion.explore", exc_type=ImportError)  # wants ipywidgets
    box = explore.frames(row.steps, row.draw, label="tiles taken", describe=row.describe, play=True)
    pages = [page.value for page in box.children[1].children]
    assert len(pages) == 4
    assert "The running maximum m is minus infinity" in pages[0]
    assert "4 of 5 scores seen, those of tile 2 highlighted" in pages[2]
    assert "m is 1.39 and the running sum d is 2.00" in pages[2]
    assert ["cross marks" in page for page in pages] == [False, False, False, True]


def test_what_a_frame_shows(row):
    left, right = row.draw(2).axes
    colours = [bar.get_facecolor() for bar in left.patches]
    assert colours[0] == colours[1]  # seen
    assert colours[2] == colours[3]  # this tile
    assert len(set(colours)) == 3
    assert [bar.get_height() for bar in left.patches] == pytest.approx(row.scores_S.tolist())
    dashed = [line for line in left.lines if line.get_linestyle() == "--"]
    assert dashed[0].get_ydata() == pytest.approx([math.log(4)] * 2)
    assert left.figure.get_suptitle() == "m = 1.39,   d = 2.00"
    path, now, target = (line.get_xydata().tolist() for line in right.lines)
    assert now == [path[-1]] == [pytest.approx([38 / 8, 43 / 8])]
    assert target == [pytest.approx([166 / 16, 43 / 16])]
    assert row.draw(0).get_suptitle() == "m = −∞,   d = 0.00"


# Tile maps


def test_kinds_by_hand():
    """Causal, 5 queries of 7 keys: query i sees the keys up to i + 2."""
    expected = [[FULL, MASKED, SKIPPED], [FULL, MASKED, SKIPPED], [FULL, FULL, FULL]]
    assert tile_kinds(5, 7, Window(right=0), tile=(2, 3)).tolist() == expected
    assert (tile_kinds(5, 7, Window(), tile=(2, 3)) == FULL).all()
    assert tile_kinds(4, 4, resolve_window(1), tile=(2, 2)).tolist() == [
        [MASKED, SKIPPED],
        [SKIPPED, MASKED],
    ]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.data())
def test_skipped_tiles_are_those_outside_the_key_range(queries, keys, rows, columns, data):
    sides = st.none() | st.integers(0, 8)
    window = Window(data.draw(sides), data.draw(sides))
    kinds = tile_kinds(queries, keys, window, tile=(rows, columns))
    assert kinds.shape == (-(-queries // rows), -(-keys // columns))
    for i, row in enumerate(kinds):
        start, stop = key_range(i * rows, min((i + 1) * rows, queries), queries, keys, window)
        for j, kind in enumerate(row.tolist()):
            first, end = j * columns, min((j + 1) * columns, keys)
            assert (kind != SKIPPED) == (max(first, start) < min(end, stop))


def test_tile_map_counts():
    kinds = torch.tensor([[1, 0, 0], [2, 1, 0]])
    texts = [text.get_text() for text in draw_tile_map(kinds).axes[0].get_legend().get_texts()]
    assert texts == ["full: 1", "masked: 2", "skipped: 3"]
    assert describe_tile_map(kinds).endswith(
        "grid of 2 by 3 tiles, queries downwards and keys to the right: 1 are full, 2 are crossed "
        "by the edge of the mask, 3 are skipped."
    )


# Measurements


def test_growth_shows_every_series():
    seconds = {"naive": [0.1, 0.4], "ours": [0.05, 0.2]}
    left, right = draw_growth([256, 512], seconds, {"naive": [3, 12], "ours": [1, 2]}).axes
    assert [line.get_ydata().tolist() for line in left.lines[:2]] == [[0.1, 0.4], [0.05, 0.2]]
    assert [line.get_ydata().tolist() for line in right.lines[:2]] == [[3, 12], [1, 2]]
    for axes in (left, right):
        linear, square = (line.get_ydata() for line in axes.lines[2:])
        assert (linear[1] / linear[0], square[1] / square[0]) == pytest.approx((2, 4))
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_roofline_has_a_ridge_and_points():
    machine = Ceilings(flops_per_s=100e9, bytes_per_s=20e9)
    (axes,) = draw_roofline(machine, {"a": (1.0, 15e9), "b": (50.0, 60e9)}).axes
    roof = axes.lines[0].get_xydata()
    assert roof[1].tolist() == pytest.approx([5, 100])
    assert roof[0, 1] == pytest.approx(20 * roof[0, 0])
    assert roof[2, 1] == pytest.approx(100)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["a", "b"]
    assert [t.get_text() for t in axes.texts] == ["roof: 100", "slope:\n20 GB/s", "ridge: 5"]
    marks = [line.get_xydata().tolist() for line in axes.lines if line.get_label() in labels]
    assert marks == [[[1, pytest.approx(15)]], [[50, pytest.approx(60)]]]


def test_time_against_bytes_in_mib_and_ms():
    pairs = {"naive": [(2 * MIB, 0.5), (8 * MIB, 2.0)], "reused": [(2 * MIB, 0.4), (8 * MIB, 1.0)]}
    (axes,) = draw_time_against_bytes([256, 512], pairs).axes
    assert axes.lines[0].get_xydata().tolist() == [[2, 500], [8, 2000]]
    assert [text.get_text() for text in axes.texts] == ["256", "512"]  # once for both
    assert [text.xy for text in axes.texts] == [(2, 500), (8, 2000)]
    assert re.search(r"\(MiB\)", axes.get_xlabel())
    assert re.search(r"\(ms\)", axes.get_ylabel())
    axes.figure.draw_without_rendering()
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert {"2", "5"} < set(ticks)


def test_schematics_mark_one_tile_of_each():
    (axes,) = draw_memories(tiles=3).axes
    names = [text.get_text() for text in axes.texts]
    assert {"Q", "K", "V", "O", "ℓ", "scores", "u", "m", "d"} < set(names)
    assert (
        len(axes.patches) == 2 + 5 * 3 + 7 + 3
    )  # two memories, tiles, what the chip holds, arrows
    for panel, along in zip(draw_owners(tiles=3).axes, ("y", "x"), strict=True):
        colours = [patch.get_facecolor() for patch in panel.patches[:9]]
        marked = [patch for patch in panel.patches[:9] if colours.count(patch.get_facecolor()) == 3]
        assert [getattr(patch, f"get_{along}")() for patch in marked] == [1, 1, 1]
