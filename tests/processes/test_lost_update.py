"""race(): every schedule by hand or against plain generators that are stepped in its order."""

import itertools
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.processes import lost_update
from companion.processes.lost_update import Interleaving, Step, race


def words(ones: int, length: int) -> list[list[int]]:
    """All words of 0 and 1 with so many ones."""
    return [
        [int(place in places) for place in range(length)]
        for places in itertools.combinations(range(length), ones)
    ]


def stepped(schedule, workers: int) -> int:
    """The counter at the end, by generators: another mechanism than threads and turns."""
    counter = 0

    def worker():
        nonlocal counter
        while True:
            local = counter
            yield
            local += 1
            yield
            counter = local
            yield

    crew = [worker() for _ in range(workers)]
    for turn in schedule:
        next(crew[turn])
    return counter


@st.composite
def schedules(draw):
    workers, increments = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    turns = list(range(workers)) * 3 * increments
    return workers, increments, draw(st.permutations(turns))


# Without a lock


def test_the_lost_update_step_by_step():
    result = race(1, workers=2, lock=False, schedule=[0, 1, 0, 1, 0, 1])
    assert (result.observed, result.expected) == (1, 2)
    assert result.interleaving == (
        Step(0, "load", 0, 0),
        Step(1, "load", 0, 0),
        Step(0, "add", 1, 0),
        Step(1, "add", 1, 0),
        Step(0, "store", 1, 1),
        Step(1, "store", 1, 1),
    )


def test_the_table():
    result = race(1, workers=2, lock=False, schedule=[1, 1, 0, 1, 0, 0])
    assert str(result.interleaving) == (
        "step  worker  action  private copy  counter\n"
        "   1       1  load               0        0\n"
        "   2       1  add                1        0\n"
        "   3       0  load               0        0\n"
        "   4       1  store              1        1\n"
        "   5       0  add                1        1\n"
        "   6       0  store              1        1"
    )
    assert str(Interleaving()) == "step  worker  action  private copy  counter"


def test_all_orders_of_two_workers():
    ends = Counter()
    for schedule in words(3, 6):
        result = race(1, workers=2, lock=False, schedule=schedule)
        assert result.observed == stepped(schedule, 2)
        assert [step.worker for step in result.interleaving] == schedule
        ends[result.observed] += 1
    assert ends == {1: 18, 2: 2}  # right are 000111 and 111000 only


@settings(deadline=None, max_examples=60)
@given(schedules())
def test_any_order(case):
    workers, increments, schedule = case
    result = race(increments, workers=workers, lock=False, schedule=schedule)
    assert result.observed == stepped(schedule, workers)
    assert result.expected == workers * increments
    assert [step.worker for step in result.interleaving] == schedule
    assert result.interleaving[-1].counter == result.observed


def test_two_is_what_a_thousand_increments_can_come_to():
    many = 1000
    worst = [0] + [1] * 3 * (many - 1) + [0] * 2 + [1] + [0] * 3 * (many - 1) + [1] * 2
    result = race(many, workers=2, lock=False, schedule=worst)
    assert (result.observed, result.expected) == (2, 2000)


@pytest.mark.parametrize(("increments", "workers"), [(1, 1), (1, 5), (3, 2), (7, 3)])
def test_by_default_all_load_before_any_stores(increments, workers):
    result = race(increments, workers=workers, lock=False)
    assert (result.observed, result.expected) == (increments, increments * workers)
    actions = [step.action for step in result.interleaving]
    assert actions == [a for a in ("load", "add", "store") for _ in range(workers)] * increments


# With a lock


def test_the_lock_step_by_step():
    result = race(1, workers=2, lock=True, schedule=[0, 1, 0, 1, 0, 1])
    assert result.interleaving == (
        Step(0, "load", 0, 0),
        Step(1, "waits", None, 0),
        Step(0, "add", 1, 0),
        Step(1, "waits", None, 0),
        Step(0, "store", 1, 1),
        Step(1, "load", 1, 1),
        Step(1, "add", 2, 1),
        Step(1, "store", 2, 2),
    )
    assert "   2       1  waits              -        0" in str(result.interleaving)


@settings(deadline=None, max_examples=60)
@given(schedules())
def test_with_a_lock_no_order_loses_anything(case):
    workers, increments, schedule = case
    result = race(increments, workers=workers, lock=True, schedule=schedule)
    assert result.observed == result.expected == workers * increments
    turns = [step.worker for step in result.interleaving]
    assert turns[: len(schedule)] == schedule  # what follows makes up for the waiting
    done = [step for step in result.interleaving if step.action != "waits"]
    assert len(done) == len(schedule)
    for start in range(0, len(done), 3):  # the three steps of one increment stand together
        three = done[start : start + 3]
        assert len({step.worker for step in three}) == 1
        assert [step.action for step in three] == ["load", "add", "store"]
    assert Counter(step.worker for step in done) == dict.fromkeys(range(workers), 3 * increments)


def test_who_holds_the_lock_at_the_end_of_the_schedule_finishes_first():
    # Worker 1 begins; 0 spends all its turns but the last two with waiting.
    result = race(1, workers=2, lock=True, schedule=[1, 0, 0, 0, 1, 1])
    assert [step.worker for step in result.interleaving] == [1, 0, 0, 0, 1, 1, 0, 0, 0]
    result = race(2, workers=2, lock=True, schedule=[0] * 3 + [1] + [0] * 3 + [1] * 5)
    turns = [step.worker for step in result.interleaving]
    assert turns == [0] * 3 + [1] + [0] * 3 + [1] * 5 + [0] * 3
    result = race(1, workers=2, lock=True, schedule=[0, 1, 0, 1, 0, 1])
    assert [step.worker for step in result.interleaving][6:] == [1, 1]
    # The holder, 1, has the larger number and is in the middle of its steps.
    result = race(2, workers=2, lock=True, schedule=[0, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 1])
    assert result.observed == 4
    assert len(result.interleaving) == 12 + sum(s.action == "waits" for s in result.interleaving)


# The threads


def test_the_steps_are_done_by_one_real_thread_per_worker(monkeypatch):
    ran = []
    genuine = lost_update._Table._note

    def noted(self, worker, action, local):
        ran.append((worker, threading.current_thread().name, threading.get_native_id()))
        genuine(self, worker, action, local)

    monkeypatch.setattr(lost_update._Table, "_note", noted)
    race(2, workers=3, lock=False)
    assert len(set(ran)) == 3
    assert {(worker, name) for worker, name, _ in ran} == {(w, f"race-{w}") for w in range(3)}
    assert threading.get_native_id() not in {number for *_, number in ran}


def test_no_thread_is_left(nothing_left):
    for lock in (False, True):
        race(3, workers=4, lock=lock)


def test_an_interrupt_leaves_no_thread(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(lost_update._Table, "pass_on", interrupted)
    with pytest.raises(KeyboardInterrupt):
        race(1, workers=3, lock=False)
    end = time.monotonic() + 100
    while any(t.name.startswith("race-") for t in threading.enumerate()):
        assert time.monotonic() < end, "workers still wait for their turns"
        time.sleep(0.005)


# Errors


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([0, 1, 0, 1, 0], "worker 1 to come 3 times .* got 2 times"),
        ([0, 1, 0, 1, 0, 1, 1], "worker 1 to come 3 times .* got 4 times"),
        ([], "worker 0 to come 3 times .* got 0 times"),
        ([0, 1, 0, 1, 0, 2], r"schedule\[5\] must be in \[0, 1\], got 2"),
        ([0, -1, 0, 1, 0, 1], r"schedule\[1\] must be in \[0, 1\], got -1"),
    ],
)
@pytest.mark.parametrize("lock", [False, True])
def test_schedules_that_cannot_be_run(schedule, message, lock):
    with pytest.raises(ValueError, match=message):
        race(1, workers=2, lock=lock, schedule=schedule)


def test_turns_are_whole_numbers():
    with pytest.raises(
        TypeError,
        match=r"\(each an integer\) or None, got list with float",
    ):
        race(1, workers=2, lock=False, schedule=[0.0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("increments", "workers", "error", "message"),
    [
        (0, 2, ValueError, "increments must be at least 1, got 0"),
        (1.5, 2, TypeError, "increments: expected an integer, got 1.5"),
        (True, 2, TypeError, "increments: expected an integer, got True"),
        (1, 0, ValueError, r"workers must be in \[1, 64\], got 0"),
        (1, 65, ValueError, r"workers must be in \[1, 64\], got 65"),
        (1, "2", TypeError, "workers: expected an integer, got '2'"),
    ],
)
def test_numbers_that_make_no_race(increments, workers, error, message):
    with pytest.raises(error, match=message):
        race(increments, workers=workers, lock=False)
