"""What chapter 10 measures: threads that count, forks of filled parents, a step of two halves."""

import mmap
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from companion.processes.interpreter_lock import free_threading
from companion.processes.study import fork_time, live_race
from companion.processes.study.fork_time import fork_times
from companion.processes.study.live_race import LiveRace
from companion.processes.study.workloads import compute_and_wait
from companion.processes.throughput import speedup
from tests.measurements import measured_again

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="not Linux")
LOCKED = pytest.mark.skipif(not free_threading().gil_enabled, reason="no interpreter lock")
race_of = live_race.live_race
pytestmark = pytest.mark.usefixtures("nothing_left")
MIB = 2**20


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("way", ["with a lock", "own counters"])
def test_nothing_is_lost(way, workers):
    result = race_of(way, 5003, workers=workers)
    assert (result.way, result.expected, result.lost) == (way, 5003 * workers, 0)
    assert result.time_s > 0


@measured_again
def test_updates_are_lost():
    result = race_of("with a call", 100_003)
    assert result.expected == 200_006
    assert 0 < result.lost < 200_006
    assert result.observed >= 2  # chapter 10 proves that it cannot be less


@LOCKED
def test_one_thread_loses_nothing():
    for way in ("one line", "with a call"):
        assert race_of(way, 5003, workers=1).observed == 5003


def test_lost_is_what_is_missing():
    assert LiveRace("one line", 10, 7, 1.0).lost == 3


def test_the_interval_is_put_back(monkeypatch):
    before, seen = sys.getswitchinterval(), []

    def noted(counter, increments):
        seen.append(sys.getswitchinterval())

    monkeypatch.setitem(live_race._WAYS, "one line", noted)
    race_of("one line", 7, workers=3)
    assert seen == pytest.approx([1e-5] * 3, abs=1e-6)
    assert sys.getswitchinterval() == before


def test_a_thread_that_does_not_start_stops_the_others(monkeypatch):
    before, start, started = sys.getswitchinterval(), threading.Thread.start, []

    def refusing(thread):
        if started:
            raise RuntimeError("no more threads")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    with pytest.raises(RuntimeError, match="no more threads"):
        race_of("one line", 7)
    started[0].join(20)
    assert not started[0].is_alive()
    assert sys.getswitchinterval() == before


@LINUX
def test_the_table_has_eight_bytes_for_a_page():
    none, some = fork_times([0, 64 * MIB], repeats=1)
    grown = some.table_bytes - none.table_bytes
    assert grown == pytest.approx(8 * 64 * MIB / mmap.PAGESIZE, rel=0.1)
    assert (none.size_bytes, some.size_bytes) == (0, 64 * MIB)


@LINUX
@measured_again
def test_a_larger_parent_forks_more_slowly():
    small, large = fork_times([0, 128 * MIB])
    assert 0 < small.median_s < large.median_s / 2


@LINUX
def test_the_memory_of_one_parent_is_not_that_of_the_next():
    first, large, last = fork_times([MIB, 64 * MIB, MIB], repeats=1)
    assert last.table_bytes == pytest.approx(first.table_bytes, abs=8192)
    assert large.table_bytes > last.table_bytes + 100_000


@LINUX
def test_the_program_fails_aloud(monkeypatch, tmp_path):
    (tmp_path / "fork_program.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(fork_time, "__file__", str(tmp_path / "fork_time.py"))
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        fork_times([0])


@LINUX
@measured_again
def test_the_median_of_what_the_program_prints(monkeypatch, tmp_path):
    program = "import json, sys\nprint(json.dumps([[5, [3, 1, 9]]])); assert sys.argv[1] == '1'"
    (tmp_path / "fork_program.py").write_text(program)
    monkeypatch.setattr(fork_time, "__file__", str(tmp_path / "fork_time.py"))
    assert fork_times([4096], huge_pages=True) == [(4096, 5, 3)]


@measured_again
def test_a_step_holds_the_lock_and_then_waits():
    begun, used = time.perf_counter(), time.thread_time()
    compute_and_wait(0.02, 0.05)
    used, passed = time.thread_time() - used, time.perf_counter() - begun
    assert 0.02 <= used < 0.03
    assert 0.07 <= passed < 0.2


@LOCKED
@measured_again
def test_threads_compute_one_by_one_and_wait_together():
    step = partial(compute_and_wait, 0.02, 0.05)
    (four,) = speedup(step, workers=(4,), repeats=3)
    assert 4 * 0.02 + 0.05 <= four.time_s < 4 * (0.02 + 0.05) / 1.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: race_of("two lines", 3),
            r"way must be one of one line, .*'two lines'",
        ),
        (lambda: race_of("one line", 0), r"increments must be at least 1, got 0"),
        (
            lambda: race_of("one line", 3, workers=0),
            r"workers must be at least 1, got 0",
        ),
        pytest.param(
            lambda: fork_times([0, -1]), r"sizes_bytes must be at least 0, got -1", marks=LINUX
        ),
        pytest.param(
            lambda: fork_times([0], repeats=0), r"repeats must be at least 1, got 0", marks=LINUX
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
