"""The interpreter's lock: seen from threads, counted and drawn; and whether there is one."""

import itertools
import re
import sys
import sysconfig
import threading

import matplotlib.pyplot as plt
import pytest

from companion.processes.interpreter_lock import FreeThreading, free_threading
from companion.processes.study import gil_spans
from companion.processes.study.gil_figure import GilTurns, describe_gil, draw_gil, gil_turns
from companion.processes.study.gil_spans import GilSpan, gil_timeline

pytestmark = pytest.mark.usefixtures("nothing_left")
LOCKED = pytest.mark.skipif(not free_threading().gil_enabled, reason="no interpreter lock")
BY_HAND = [GilSpan(1, 0.0, 0.004), GilSpan(0, 0.004, 0.005), GilSpan(0, 0.007, 0.01)]


@LOCKED
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_only_one_runs_at_a_time(workers):
    duration_s, seen = 0.1, set()
    for _ in range(5):  # on a busy machine a thread may miss a whole run
        spans = gil_timeline(0.001, workers=workers, duration_s=duration_s)
        assert all(0 <= span.start_s <= span.end_s <= duration_s for span in spans)
        assert all(one.end_s <= after.start_s for one, after in itertools.pairwise(spans))
        seen |= {span.worker for span in spans}
        if seen == set(range(workers)):
            break
    assert seen == set(range(workers))


@LOCKED
def test_a_turn_lasts_as_long_as_the_interval():
    # Who waits asks for the lock after one whole interval, so no turn but the last is shorter.
    duration_s = 0.2
    turns = gil_turns(gil_timeline(0.02, workers=2, duration_s=duration_s)).turns
    assert 1 <= turns <= duration_s / 0.02 + 2


def test_the_interval_is_put_back(monkeypatch):
    before, seen = sys.getswitchinterval(), []
    spans_of = gil_spans._spans

    def noted(*args):
        seen.append(sys.getswitchinterval())
        return spans_of(*args)

    monkeypatch.setattr(gil_spans, "_spans", noted)
    gil_timeline(0.003, workers=2, duration_s=0.01)
    assert seen == pytest.approx([0.003, 0.003], abs=1e-6)
    assert sys.getswitchinterval() == before

    class Refusing(threading.Thread):
        def start(self):
            raise RuntimeError("no more threads")

    monkeypatch.setattr(gil_spans.threading, "Thread", Refusing)
    with pytest.raises(RuntimeError, match="no more threads"):
        gil_timeline(0.003)
    assert sys.getswitchinterval() == before


def test_a_gap_closes_a_span(monkeypatch):
    # Readings: the start; then 10 µs apart, but for one pause of 1 ms; then the deadline.
    readings = iter([1.0, 1.00001, 1.00002, 1.00102, 1.00103, 1.5])
    monkeypatch.setattr(gil_spans.time, "perf_counter", lambda: next(readings))
    spans = gil_spans._spans(4, 1.0, 0.4)
    assert [span.worker for span in spans] == [4, 4]
    assert [edge for span in spans for edge in span[1:]] == pytest.approx(
        [0, 0.00002, 0.00102, 0.00103], abs=1e-12
    )


def test_who_comes_too_late_has_no_span(monkeypatch):
    readings = iter([1.6, 1.7])
    monkeypatch.setattr(gil_spans.time, "perf_counter", lambda: next(readings))
    assert gil_spans._spans(0, 1.0, 0.5) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"switch_interval_s": 0}, "switch_interval_s must be a finite number in .*, got 0"),
        (
            {"switch_interval_s": 0.01, "duration_s": -1},
            "duration_s must be .*, got -1",
        ),
        ({"switch_interval_s": 0.01, "workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_what_a_timeline_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        gil_timeline(**options)


def test_turns_by_hand():
    # Thread 1 for 4 ms; thread 0 for 1 + 3 ms, within one turn of 6 ms.
    turns = gil_turns(BY_HAND)
    assert turns.turns == 2
    assert turns.median_s == pytest.approx(0.005)
    assert turns.shares == pytest.approx((0.5, 0.5))
    assert gil_turns([GilSpan(0, 0.0, 0.0)]) == GilTurns(1, 0.0, (0.0,))


def test_the_picture_has_one_row_for_each_thread():
    figure = draw_gil(BY_HAND, switch_interval_s=0.005)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["thread 0", "thread 1"]
    assert (axes.get_xlabel(), axes.get_title(loc="left")) == ("time (ms)", "2 turns")
    first, second = axes.collections
    edges = [[path.vertices[:, 0].min(), path.vertices[:, 0].max()] for path in first.get_paths()]
    assert edges == [pytest.approx([4, 5]), pytest.approx([7, 10])]
    assert len(second.get_paths()) == 1
    (bar,) = axes.lines
    assert [*bar.get_xdata()] == pytest.approx([0, 5])
    plt.close(figure)


def test_the_picture_in_words():
    assert describe_gil(BY_HAND, switch_interval_s=0.0005) == (
        "Over 10 ms, 2 threads take 2 turns, of 5 ms in the median; the switch interval is 0.5 ms. "
        "Each ran for 50 %, 50 % of the time in which one of them ran."
    )


@pytest.mark.parametrize("call", [gil_turns, lambda s: draw_gil(s, switch_interval_s=1.0)])
def test_nothing_cannot_be_drawn(call):
    with pytest.raises(ValueError, match="at least one span, got none"):
        call([])


def test_this_interpreter():
    # What the build says of itself, in its version line, from 3.13 on.
    assert free_threading().build == ("free-threading" in sys.version)


@pytest.mark.parametrize(
    ("variable", "enabled", "expected", "words"),
    [
        (None, None, FreeThreading(False, True), "lock, which is always on"),
        (0, True, FreeThreading(False, True), "lock, which is always on"),
        (1, True, FreeThreading(True, True), "free-threaded build.* on all the same"),
        (1, False, FreeThreading(True, False), "free-threaded build.* off"),
    ],
)
def test_other_interpreters(monkeypatch, variable, enabled, expected, words):
    monkeypatch.setattr(sysconfig, "get_config_var", {"Py_GIL_DISABLED": variable}.get)
    if enabled is None:
        monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    else:
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert free_threading() == expected
    assert re.search(words, expected.describe())
