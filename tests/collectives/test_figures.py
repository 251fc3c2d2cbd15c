"""What the drawings of chapter 11 say: the numbers and the words in them."""

import re

import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

from companion.collectives.cost.closed_forms import CANDIDATES, crossover_bytes, fastest
from companion.collectives.cost.simulation import simulate
from companion.collectives.cost.topology import Link, Topology
from companion.collectives.study.algorithm_map import NETWORKS, AlgorithmMap, size_text
from companion.collectives.study.figures import (
    draw_against_ranks,
    draw_algorithms,
    draw_all_reduce,
    draw_at_scale,
    draw_time_against_size,
    draw_timeline,
    draw_trace,
)
from companion.collectives.study.ring_frames import RingFrames
from companion.collectives.study.seven_billion import (
    BUCKET_BYTES,
    GPU_HOSTS,
    GRADIENT_BYTES,
    all_reduce_at_scale,
)

FLAT = Topology(between=Link(10e-6, 1e-9))

pytestmark = pytest.mark.usefixtures("no_window")


def texts(axes):
    return [text.get_text() for text in axes.texts]


# The ring


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_cells_say_how_many_were_summed(ranks):
    ring = RingFrames([ranks])
    for value in ring.values:
        circle, table = ring.draw(value).axes
        counts = [int(word) for word in texts(table) if word.isdigit()]
        state = ring.state(value)
        # Row after row the cells; after each row also the number of a chunk, above its column.
        rows = [counts[i * (ranks + 1) : (i + 1) * (ranks + 1)] for i in range(ranks)]
        assert [row[:-1] for row in rows] == [[len(sum_) for sum_ in row] for row in state.held]
        assert [row[-1] for row in rows] == list(range(ranks))
        arrows = [p for p in circle.patches if isinstance(p, FancyArrowPatch)]
        assert len(arrows) == (ranks if value[1] else 0)
        sent = [word for word in texts(circle) if word][: len(arrows)]
        assert sent == [str(move.chunk) for move in state.moves]


def test_frames_in_words():
    ring = RingFrames([3, 2])
    assert ring.values == [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (2, 0), (2, 1), (2, 2)]
    assert ring.show((3, 3)) == "3, all-gather, step 1 of 2"
    assert (
        ring.describe((3, 0)) == "3 ranks on a circle; each has 3 chunks of its own numbers alone."
    )
    assert ring.describe((3, 2)) == (
        "3 ranks on a circle. Sent: chunk 1 from 0 to 1, chunk 2 from 1 to 2, chunk 0 from 2 to 0. "
        "The receiver adds it and then holds the sum of 3 ranks there. Each rank has finished 1 of "
        "its 3 chunks."
    )
    assert "The receiver stores it" in ring.describe((3, 3))
    assert "finished 3 of its 3 chunks" in ring.describe((3, 4))


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ([9], ValueError, r"ranks must be in \[2, 8\], got 9"),
        ([4, 1], ValueError, r"ranks must be in \[2, 8\], got 1"),
        ([2.5], TypeError, "ranks: expected an integer"),
        ([], ValueError, "at least one number of ranks"),
    ],
)
def test_rings_that_cannot_be_drawn(counts, error, message):
    with pytest.raises(error, match=message):
        RingFrames(counts)


# The map


def test_map_is_the_fastest_everywhere():
    best, sizes = AlgorithmMap(most_ranks=17), [1e2, 1e4, 1e6, 1e9]
    for name, (alpha_s, beta) in NETWORKS.items():
        winners = best.winners(name, sizes)
        assert winners.shape == (4, 16)
        for (row, column), place in np.ndenumerate(winners):
            if column + 2 in (2, 3):
                continue  # ring and halving-doubling tie at P = 2, their messages at P = 3
            link = {"alpha_s": alpha_s, "beta_s_per_byte": beta}
            expected = fastest(ranks=column + 2, bytes=sizes[row], **link)
            assert CANDIDATES[place] == expected


def test_map_in_words_names_the_crossover():
    best = AlgorithmMap()
    name = best.values[2]
    alpha_s, beta = NETWORKS[name]
    link = {"alpha_s": alpha_s, "beta_s_per_byte": beta}
    crossing = crossover_bytes("halving_doubling", "ring", ranks=24, **link)
    words = best.describe(name)
    found = re.search(r"halving_doubling for the smallest tensors, ring from ([\d.]+) MB", words)
    assert float(found[1]) * 1e6 == pytest.approx(
        crossing, rel=0.15
    )  # the map's rows are 12% apart
    left, right = best.draw(name).axes
    assert texts(left) == ["halving\ndoubling", "ring"]
    assert len(right.lines) == len(CANDIDATES)


def test_a_single_winner():
    best = AlgorithmMap(networks={"no latency": Link(0.0, 1e-9)}, ranks=6, most_ranks=8)
    assert "the fastest is ring for the smallest tensors." in best.describe("no latency")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1e3, "1 kB"), (26_214_400, "26.2 MB")]
)
def test_sizes_as_people_write_them(size, text):
    assert size_text(size) == text


# 7B


def test_seven_billion_by_hand():
    points = {(p.algorithm, p.ranks): p.total_s for p in all_reduce_at_scale()}
    assert GRADIENT_BYTES == 14e9
    assert len(points) == 3 * 14
    one_host = 14 * (3.4e-6 + 14e9 / 8 / 450e9)
    assert points["ring", 8] == pytest.approx(one_host)
    assert points["hierarchical", 8] == pytest.approx(one_host)
    p = 65_536  # a flat ring goes at the pace of its slowest link
    assert points["ring", p] == pytest.approx(2 * (p - 1) * (14e-6 + 14e9 / p / 50e9), rel=1e-4)
    between = 2 * (p // 8 - 1) * (14e-6 + 14e9 / p / 50e9)
    assert points["hierarchical", p] == pytest.approx(one_host + between)
    inside, outside = 3 * (3.4e-6 + 14e9 / 450e9), 13 * (14e-6 + 14e9 / 50e9)
    assert points["tree", p] == pytest.approx(2 * (inside + outside))


def test_small_tensors_turn_the_order_round():
    bucket = {p.algorithm: p.total_s for p in all_reduce_at_scale(BUCKET_BYTES, ranks=[65_536])}
    whole = {p.algorithm: p.total_s for p in all_reduce_at_scale(ranks=[65_536])}
    assert bucket["tree"] < bucket["hierarchical"] < bucket["ring"]
    assert whole["hierarchical"] < whole["ring"] < whole["tree"]
    assert GPU_HOSTS.ranks_per_host == 8


def test_scale_is_drawn_in_milliseconds():
    points = all_reduce_at_scale(ranks=[8, 16])
    (axes,) = draw_at_scale({"14 GB": points}).axes
    assert [line.get_label() for line in axes.lines] == ["flat ring", "hierarchical ring", "tree"]
    assert axes.lines[2].get_ydata() == pytest.approx([1e3 * p.total_s for p in points[4:]])
    assert axes.get_title() == "14 GB"


# The others


def test_all_reduce_sums_columns():
    before, after = draw_all_reduce([[1, 2, 3], [10, 20, 30]]).axes
    assert texts(before) == ["1", "2", "3", "10", "20", "30", "rank 0", "rank 1"]
    assert texts(after)[:6] == ["11", "22", "33"] * 2


def test_model_line_runs_through_model_points():
    sizes = np.array([1e3, 1e5, 1e7])
    model = {"ranks": 4, "alpha_s": 10e-6, "beta_s_per_byte": 1e-9}
    seconds = 6 * 10e-6 + 1.5e-9 * sizes
    (axes,) = draw_time_against_size({"held out": (sizes, seconds)}, **model).axes
    line, points = axes.lines
    at_points = np.interp(sizes, line.get_xdata(), line.get_ydata())
    np.testing.assert_allclose(at_points, points.get_ydata(), rtol=1e-3)
    assert [label.get_text() for label in axes.get_legend().texts] == ["model", "held out"]


def test_marks_are_measured_and_lines_are_the_model():
    model = {"ranks": 4, "alpha_s": 1e-3, "beta_s_per_byte": 1e-6}
    times = {"tree": [0.006, 0.02], "halving_doubling": [0.005, 0.011]}
    figure = draw_algorithms([1024, 4096], times, **model)
    (axes,) = figure.axes
    for seconds, (line, marks) in zip(
        times.values(), zip(axes.lines[::2], axes.lines[1::2], strict=True), strict=True
    ):
        assert marks.get_xydata().tolist() == [[1024, 1e3 * seconds[0]], [4096, 1e3 * seconds[1]]]
        assert line.get_xdata()[[0, -1]] == pytest.approx([1024, 4096])
    tree_ms = 1e3 * 2 * 2 * (1e-3 + 4096 * 1e-6)
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(tree_ms)
    assert [text.get_text() for text in figure.legends[0].texts] == ["tree", "halving and doubling"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]


def test_times_against_ranks_stand_beside_their_models():
    link = {"alpha_s": 2e-3, "beta_s_per_byte": 1e-6}
    times = {2: {"ring": [0.2, 0.005], "tree": [0.4, 0.006]}}
    times[4] = {"ring": [0.3, 0.015], "tree": [0.8, 0.009]}
    figure = draw_against_ranks(times, {"long": 1e5, "short": 10}, **link)
    long, short = figure.axes
    ring, ring_marks, tree, tree_marks, bound = short.lines
    assert ring_marks.get_xydata().tolist() == [[2, 5.0], [4, 15.0]]
    assert tree_marks.get_xydata().tolist() == [[2, 6.0], [4, 9.0]]
    assert ring.get_xydata() == pytest.approx(np.array([[2, 4.01], [4, 12.015]]))
    assert tree.get_xydata() == pytest.approx(np.array([[2, 4.02], [4, 8.04]]))
    assert set(bound.get_ydata()) == {2e-2}
    assert long.lines[1].get_ydata().tolist() == [200, 300]
    assert long.lines[4].get_ydata()[0] == pytest.approx(200)
    assert [long.get_title(), short.get_title()] == ["long", "short"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["ring", "tree", "2Sβ"]
    other = draw_algorithms([10, 20], {"tree": [1, 2]}, ranks=2, **link).axes[0].lines[1]
    assert (other.get_color(), other.get_marker()) == (tree_marks.get_color(), "^")
    assert ring_marks.get_marker() == "D"


def test_timeline_starts_at_its_first_span():
    rows = {"serial": [("compute", 5.0, 5.02), ("communicate", 5.02, 5.03)], "idle": []}
    (axes,) = draw_timeline(rows).axes
    spans = [bar.get_paths()[0].get_extents() for bar in axes.collections]
    assert [s.x0 for s in spans] == pytest.approx([0, 20])
    assert [s.width for s in spans] == pytest.approx([20, 10])
    assert [label.get_text() for label in axes.get_legend().texts] == ["compute", "communicate"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["serial", "idle"]


def test_trace_has_a_bar_for_each_message():
    options = {"ranks": 3, "bytes": 3e6, "topology": FLAT}
    (axes,) = draw_trace(simulate("ring", **options)).axes
    assert len(axes.collections) == 12
    (axes,) = draw_trace(simulate("ring", **options, gamma_s_per_byte=1e-10)).axes
    assert len(axes.collections) == 12 + 6  # half of them are added
    with pytest.raises(ValueError, match="at least one span"):
        draw_trace(simulate("ring", **options, keep_events=False))
