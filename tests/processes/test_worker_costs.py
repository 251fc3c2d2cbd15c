"""What a worker, a turn and a hand-over cost; and the programs that run alone."""

import os
import subprocess
import sys
import time

import pytest

from companion.processes.alone import creation as alone_creation
from companion.processes.alone import run as alone
from companion.processes.alone import switch as alone_switch
from companion.processes.alone.run import run_alone
from companion.processes.creation import measure_creation
from companion.processes.study.handover import handover_s
from companion.processes.switching import measure_switch
from tests.measurements import measured_again

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write a program, and have it found."""

    def write(text: str) -> str:
        (tmp_path / "alone_test.py").write_text(text)
        return "alone_test"

    monkeypatch.setattr(alone, "__file__", str(tmp_path / "alone.py"))
    return write


def test_json_comes_back(program):
    name = program("import json, sys\nprint(json.dumps([sys.argv[1:], {'a': None}]))")
    assert run_alone(name, 3, "x y", 0.5) == [["3", "x y", "0.5"], {"a": None}]


def test_a_program_alone_imports_nothing_from_its_folder(program, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    assert run_alone(program("import json\nprint(json.dumps(1))")) == 1


def test_a_failure_is_told(program):
    with pytest.raises(RuntimeError, match=r"(?s)alone_test ended with exit code 1:.*no such luck"):
        run_alone(program("raise ValueError('no such luck')"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_when_the_time_is_over_all_are_killed(program, tmp_path, gone):
    name = program(
        "import os, sys, time\n"
        "child = os.fork()\n"
        "with open(sys.argv[1], 'a') as file: file.write(f'{os.getpid()}\\n')\n"
        "time.sleep(600)\n"
    )
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"alone_test to end within 1 s"):
        run_alone(name, tmp_path / "pids", timeout_s=1)
    assert time.monotonic() - begun < 60
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert gone(*pids)


@measured_again
def test_a_spawned_worker_is_a_whole_interpreter():
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        seconds.append(time.perf_counter() - begun)
    spawn, thread = measure_creation("spawn", 3), measure_creation("thread", 50)
    assert spawn.fastest_s > 0.2 * min(seconds)  # a fork takes less than a tenth
    assert spawn.fastest_s > 20 * thread.fastest_s
    assert (spawn.kind, spawn.n, thread.kind, thread.n) == ("spawn", 3, "thread", 50)
    assert 0 < thread.fastest_s <= thread.median_s


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@measured_again
def test_a_fork_lies_between():
    fork, server = measure_creation("fork", 10), measure_creation("forkserver", 3)
    assert measure_creation("thread", 50).fastest_s < fork.fastest_s
    assert fork.fastest_s < measure_creation("spawn", 2).fastest_s
    assert 0 < server.fastest_s <= server.median_s


def test_the_first_worker_is_not_counted(monkeypatch):
    started = []

    class Slow:
        exitcode = 0

        def __init__(self, target):
            started.append(target)

        start = join = lambda self: None

    monkeypatch.setattr(alone_creation.threading, "Thread", Slow)
    # Worker k lasts k + 1 seconds of this clock.
    times = iter([0, 1, 10, 12, 20, 23, 30, 34])
    monkeypatch.setattr(alone_creation.time, "perf_counter", lambda: next(times))
    assert alone_creation.lifetimes_s("thread", 3) == [2, 3, 4]
    assert len(started) == 4


@measured_again
def test_one_way_is_half_a_round_trip():
    seconds = alone_switch.times_s(3, lambda: time.sleep(0.02), lambda: time.sleep(0.02))
    assert len(seconds) == 3
    assert 0.02 <= min(seconds) < 0.038


@measured_again
def test_turns_go_round():
    kinds = ("thread", "process") if hasattr(os, "fork") else ("thread",)
    for kind in kinds:
        cost = measure_switch(200, kind=kind)
        assert (cost.kind, cost.n) == (kind, 200)
        # A wake-up takes microseconds; a tenth of one would be no wake-up at all.
        assert 1e-7 < cost.fastest_s <= cost.median_s < 0.05
    assert len(alone_switch.between_threads(7)) == 7


@measured_again
def test_a_handle_is_cheaper_than_a_copy():
    pickled_s = handover_s(20_000_000, by="pickle")
    assert pickled_s > 20_000_000 / 100e9  # nobody's pipe moves 100 GB/s
    assert pickled_s > 3 * handover_s(20_000_000, by="shared memory")


def test_one_byte_can_be_handed_over():
    assert handover_s(1, by="pickle", repeats=1) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure_creation("rank", 3), r"kind must be one of thread, .*got 'rank'"),
        (lambda: measure_creation("thread", 0), r"n must be at least 1, got 0"),
        (lambda: measure_switch(5, kind="spawn"), r"kind must be one of .*got 'spawn'"),
        (lambda: measure_switch(0), r"n must be at least 1, got 0"),
        (lambda: handover_s(0, by="pickle"), r"size_bytes must be at least 1, got 0"),
        (lambda: handover_s(9, by="pickle", repeats=0), r"repeats must be at least 1, got 0"),
        (lambda: handover_s(9, by="post"), r"by must be one of pickle, shared memory, got 'post'"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
