"""Speedup: work that sleeps, under a lock and without, has a known one. Amdahl's law by hand."""

import math
import os
import threading
import time
from collections import Counter
from functools import partial

import pytest
import torch

from companion.processes.amdahls_law import amdahl, fit_parallel_fraction
from companion.processes.pool.crew import Crew, WorkFailed
from companion.processes.study import workloads
from companion.processes.throughput import SpeedupRow, SpeedupTable, speedup
from tests.measurements import measured_again
from tests.processes import crew_tasks

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(
    ("fraction", "workers", "expected"),
    [
        (0, 7, 1),
        (1, 7, 7),
        (0.5, 1, 1),
        (0.5, 2, 4 / 3),
        (0.9, 10, 1 / 0.19),
        (0.75, math.inf, 4),
    ],
)
def test_amdahl_by_hand(fraction, workers, expected):
    assert amdahl(fraction, workers) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.875, 1.0])
def test_the_fit_finds_the_fraction(fraction):
    workers = (1, 2, 3, 11)
    # Time of the part that stays, plus a share of the rest.
    speedups = [1 / (1 - fraction + fraction / w) for w in workers]
    assert fit_parallel_fraction(workers, speedups) == pytest.approx(fraction, abs=1e-12)
    assert fit_parallel_fraction([2], speedups[1:2]) == pytest.approx(fraction, abs=1e-12)


def test_points_that_disagree_are_fitted_by_least_squares():
    # x = 1 - 1/W and y = 1 - 1/s: (1/2, 0) and (3/4, 3/4). Sum of xy over sum of xx: 9/13.
    assert fit_parallel_fraction([2, 4], [1.0, 4.0]) == pytest.approx(9 / 13, rel=1e-12)


def test_noise_does_not_leave_the_unit_interval():
    assert fit_parallel_fraction([2], [0.8]) == 0
    assert fit_parallel_fraction([2], [2.1]) == 1


def serial_then_free(lock, serial_s, free_s):
    with lock:
        time.sleep(serial_s)
    time.sleep(free_s)


@measured_again
def test_half_under_a_lock_is_amdahl_with_one_half():
    work = partial(serial_then_free, threading.Lock(), 0.03, 0.03)
    table = speedup(work, workers=(1, 2, 5), repeats=3)
    # W workers need 0.03 W + 0.03 s.
    assert [row.workers for row in table] == [1, 2, 5]
    for row in table:
        assert row.time_s == pytest.approx(0.03 * row.workers + 0.03, rel=0.3)
        assert row.speedup == pytest.approx(amdahl(0.5, row.workers), rel=0.25)
        assert row.efficiency == row.speedup / row.workers
    assert table.parallel_fraction == pytest.approx(0.5, abs=0.15)


@measured_again
def test_all_under_a_lock_gains_nothing_and_waiting_gains_all():
    locked = speedup(partial(serial_then_free, threading.Lock(), 0.03, 0), workers=[3], repeats=3)
    free = speedup(partial(workloads.wait, 0.06), workers=[3], repeats=3)
    assert locked.rows[0].speedup == pytest.approx(1, rel=0.2)
    assert free.rows[0].speedup == pytest.approx(3, rel=0.2)
    assert (len(free), free.kind) == (1, "thread")


@measured_again
def test_processes_work_side_by_side(tmp_path):
    path = tmp_path / "notes"
    path.unlink(missing_ok=True)  # of an attempt before
    work = partial(crew_tasks.note_and_wait, str(path), 0.1)
    table = speedup(work, workers=(2, 3), kind="process", repeats=2)
    notes = [line.split() for line in path.read_text().splitlines()]
    pids = Counter(int(pid) for pid, *_ in notes)
    assert os.getpid() not in pids
    # Each once to warm up; then twice alone, in pairs and in threes.
    assert sorted(pids.values()) == [1 + 2, 1 + 4, 1 + 6]
    begins_s = sorted(float(begin) for _, begin, _ in notes[3:])
    threes = [begins_s[i : i + 3] for i in (3, 9)]  # a round: one, two, three
    assert all(three[-1] - three[0] < 0.1 for three in threes)
    # Starting an interpreter and importing are not in the time.
    assert [row.speedup for row in table] == pytest.approx([2, 3], rel=0.3)
    assert all(0.1 <= row.time_s < 0.16 for row in table)


@measured_again
def test_the_fastest_of_the_rounds_counts():
    naps = iter([0, 0.05, 0.02, 0.02, 0.09])
    table = speedup(lambda: time.sleep(next(naps)), workers=[1], repeats=4)
    assert table.rows[0].time_s == pytest.approx(0.02, abs=0.015)


def test_a_table_without_a_second_worker_has_no_fraction():
    table = SpeedupTable("thread", (SpeedupRow(1, 1.0, 1.0, 1.0),))
    with pytest.raises(ValueError, match=r"more than one worker, got workers \[1\]"):
        _ = table.parallel_fraction


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_work_that_raises_is_told(kind):
    with pytest.raises(WorkFailed, match=r"(?s)work of worker 0 failed.*ZeroDivisionError"):
        speedup(crew_tasks.divide_by_zero, kind=kind)


def test_work_that_ends_its_process_is_told():
    with pytest.raises(WorkFailed, match=r"worker 0 ended with exit code 3"):
        speedup(crew_tasks.leave, kind="process")
    with pytest.raises(WorkFailed, match=r"worker \d ended with exit code 5"):
        speedup(crew_tasks.leave_the_second_time, kind="process")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: speedup(len, workers=()), r"workers: expected at least one number, got none"),
        (lambda: speedup(len, workers=(0, 1)), r"workers must be at least 1, got 0"),
        (lambda: speedup(len, repeats=0), r"repeats must be at least 1, got 0"),
        (lambda: speedup(len, kind="fork"), r"kind must be one of thread, process, got 'fork'"),
        (lambda: speedup(lambda: 1, kind="process"), r"work must be picklable.*<lambda>"),
        (lambda: amdahl(1.5, 2), r"fraction must be a finite number in \[0, 1\], got 1.5"),
        (lambda: amdahl(math.nan, 2), r"fraction must be a finite number in \[0, 1\], got nan"),
        (lambda: amdahl(0.5, 0.5), r"workers must be a finite number of at least 1, got 0.5"),
        (lambda: amdahl(1, math.inf), r"cannot be shared out"),
        (
            lambda: fit_parallel_fraction([2], [0.0]),
            r"speedups must be .* more than 0, got 0.0",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_workers_wait_between_rounds():
    done = []
    with Crew(lambda: done.append(1), size=3, kind="thread") as crew:
        assert len(done) == 3  # to warm up
        assert crew.time_s(2) >= 0
        assert len(done) == 5


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def in_new_thread(call):
    result = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()
    thread.join()
    return result[0]


@pytest.mark.usefixtures("three_threads")
def test_overlapping_products_put_the_threads_back():
    entered, may_leave, seen = threading.Event(), threading.Event(), []

    def second():
        with workloads._one_thread.held():
            seen.append(torch.get_num_threads())
            entered.set()
            may_leave.wait()

    thread = threading.Thread(target=second)
    with workloads._one_thread.held():
        seen.append(torch.get_num_threads())
        thread.start()
        entered.wait()
    may_leave.set()
    thread.join()
    assert seen == [1, 1]
    assert torch.get_num_threads() == 3
    assert in_new_thread(torch.get_num_threads) == 3


@pytest.mark.usefixtures("three_threads")
def test_products_are_made(monkeypatch):
    made, mm = [], torch.mm

    def noted(a, b, *, out):
        made.append((tuple(a.shape), torch.get_num_threads(), mm(a, b, out=out)))

    monkeypatch.setattr(torch, "mm", noted)
    workloads.matmul(7, 3)
    assert [row[:2] for row in made] == [((7, 7), 1)] * 3
    # Each entry: a sum of 7 products of 1/7 and 1/7.
    torch.testing.assert_close(made[-1][2], torch.full((7, 7), 1 / 7))
    assert torch.get_num_threads() == 3


def test_counting_counts():
    assert [workloads.count_in_python(n) for n in (0, 1, 1001)] == [0, 1, 1001]
