"""Overlap of backward and communication: the recursion against its closed form, and the drawing."""

import itertools

import pytest
from matplotlib import pyplot as plt

from companion.collectives.backward.during_backward import BucketSpan
from companion.collectives.study.overlap import OverlapMeasurement, overlap_time
from companion.collectives.study.overlap_figure import draw_overlap, overlap_rows


def test_time_is_the_longest_of_all_ways_to_the_end():
    """Compute up to a bucket j, then send all buckets from j on: the latest such end counts."""
    for compute in itertools.product((0.0, 1.0, 3.0), repeat=4):
        for reduce in itertools.product((0.0, 2.0, 5.0), repeat=4):
            ends = [sum(compute[: j + 1]) + sum(reduce[j:]) for j in range(4)]
            time = overlap_time(compute, reduce)
            assert time.overlapped_s == max(ends)
            assert time.serial_s == sum(compute) + sum(reduce)
            assert time.exposed_s == max(ends) - sum(compute)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_equal_buckets(count):
    """A link as fast as the computing hides all but one bucket; a slower one is never idle."""
    assert overlap_time([1.0] * count, [1.0] * count).overlapped_s == count + 1
    assert overlap_time([1.0] * count, [3.0] * count).overlapped_s == 1 + 3 * count
    assert overlap_time([1.0] * count, [0.5] * count).overlapped_s == count + 0.5


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="expected as many reductions as 2, got 1"):
        overlap_time([1.0, 2.0], [1.0])


def test_drawing_has_a_bar_for_every_span():
    serial = [BucketSpan("compute", 0, 0.0, 0.2), BucketSpan("reduce", 0, 0.2, 0.5)]
    halves = [
        BucketSpan("compute", 0, 0.0, 0.1),
        BucketSpan("compute", 1, 0.1, 0.2),
        BucketSpan("reduce", 0, 0.1, 0.25),
        BucketSpan("reduce", 1, 0.25, 0.4),
        BucketSpan("wait", 1, 0.2, 0.4),
    ]
    measured = OverlapMeasurement(0.5, 0.4, serial, halves)
    names = ["in turn: compute", "in turn: reduce", "overlapped: compute", "overlapped: reduce"]
    assert list(overlap_rows(measured)) == names
    figure = draw_overlap(measured)
    (axes,) = figure.axes
    bars = [c.get_paths()[0].get_extents() for c in axes.collections]
    edges = [(bar.x0, bar.x1) for bar in bars]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    expected = [(0, 200), (200, 500), (0, 100), (100, 200), (100, 250), (250, 400)]
    assert sum(edges, ()) == pytest.approx(sum(expected, ()))
    plt.close(figure)
    assert measured.taken_s("overlapped", "reduce") == pytest.approx([0.15, 0.15])
    assert measured.taken_s("serial", "compute") == [0.2]
