"""The picture of a race and its words: the same numbers as the table."""

import re

import pytest

from companion.processes.lost_update import race
from companion.processes.study.interleaving_figure import describe_interleaving, draw_interleaving

SCHEDULE = [0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1]

pytestmark = pytest.mark.usefixtures("no_window")


@pytest.fixture(scope="module")
def history():
    return race(2, workers=2, lock=False, schedule=SCHEDULE).interleaving


def words(figure) -> dict[tuple[int, int], str]:
    """(row, column) → what stands in the cell."""
    (axes,) = figure.axes
    cells = {t.get_position(): t.get_text() for t in axes.texts}
    return {(int(y), int(x)): text for (x, y), text in cells.items()}


def test_nothing_is_done_before_the_first_step(history):
    cells = words(draw_interleaving(history, 0))
    assert cells == {(worker, n): "" for n, worker in enumerate(SCHEDULE)}


def test_after_seven_steps(history):
    figure = draw_interleaving(history, 7)
    cells = words(figure)
    assert [cells[SCHEDULE[n], n] for n in range(7)] == [
        "load\n0", "load\n0", "add\n1", "store\n1", "load\n1", "add\n1", "store\n1\n1 lost",
    ]  # fmt: skip
    assert [cells[2, n] for n in range(7)] == ["0", "0", "0", "1", "1", "1", "1"]
    assert all(cells[SCHEDULE[n], n] == "" for n in range(7, 12))
    assert not any((2, n) in cells for n in range(7, 12))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "worker 0", "worker 1", "counter",
    ]  # fmt: skip
    assert axes.get_title() == "private copies: worker 0 has 1, worker 1 has 1"
    assert axes.yaxis.get_inverted()
    newest = [p for p in axes.patches if p.get_linewidth() > 2]
    assert {(int(p.get_y()), int(p.get_x())) for p in newest} == {(1, 6), (2, 6)}


def test_what_is_lost_is_what_is_missing_at_the_end():
    for schedule in (SCHEDULE, [0] + [1] * 3 + [0] * 2 + [1] + [0] * 3 + [1] * 2, [0, 1] * 6):
        result = race(2, workers=2, lock=False, schedule=schedule)
        cells = words(draw_interleaving(result.interleaving, 12))
        lost = [int(n) for text in cells.values() for n in re.findall(r"(\d+) lost", text)]
        assert sum(lost) == result.expected - result.observed
        told = "".join(describe_interleaving(result.interleaving, n) for n in range(13))
        assert [int(n) for n in re.findall(r"throws away (\d+)", told)] == lost


def test_waiting_for_the_lock():
    history = race(1, workers=3, lock=True).interleaving
    cells = words(draw_interleaving(history, 2))
    assert (cells[0, 0], cells[1, 1]) == ("load\n0", "waits")
    assert describe_interleaving(history, 2) == (
        f"Step 2 of {len(history)}: worker 1 waits for the lock. "
        "Copies: worker 0 has 0, worker 1 has no copy, worker 2 has no copy. Counter 0."
    )


def test_who_waits_keeps_its_old_copy():
    history = race(2, workers=2, lock=True, schedule=[0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0])
    assert describe_interleaving(history.interleaving, 5) == (
        f"Step 5 of {len(history.interleaving)}: worker 0 waits for the lock. "
        "Copies: worker 0 has 1, worker 1 has 1. Counter 1."
    )


def test_the_words(history):
    assert describe_interleaving(history, 0) == (
        "Before the first of 12 steps. Nobody has a copy. Counter 0."
    )
    assert describe_interleaving(history, 7) == (
        "Step 7 of 12: worker 1 stores 1, which throws away 1 update. "
        "Copies: worker 0 has 1, worker 1 has 1. Counter 1."
    )
    assert describe_interleaving(history, 11) == (
        "Step 11 of 12: worker 1 adds 1 to its copy. "
        "Copies: worker 0 has 2, worker 1 has 3. Counter 2."
    )
    lost_two = race(2, workers=2, lock=False, schedule=[0] + [1] * 6 + [0] * 5).interleaving
    assert "stores 1, which throws away 2 updates." in describe_interleaving(lost_two, 9)


@pytest.mark.parametrize("step", [-1, 13])
def test_steps_that_do_not_exist(history, step):
    for show in (draw_interleaving, describe_interleaving):
        with pytest.raises(ValueError, match=rf"step must be in \[0, 12\], got {step}"):
            show(history, step)
