"""WorkerPool: results and order of concurrent.futures, and every way in which a task is lost."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from companion.processes.pool.errors import TaskTimeout, WorkerDied
from companion.processes.worker_pool import WorkerPool
from tests.processes import pool_tasks as tasks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def processes():
    """One pool for many tests: that it serves them all is a test of its own."""
    with WorkerPool(2) as pool:
        yield pool


@pytest.fixture(scope="module", params=["process", "thread"])
def pool(request):
    if request.param == "process":
        yield request.getfixturevalue("processes")
    else:
        with WorkerPool(2, kind="thread") as pool:
            yield pool


def children() -> set[int]:
    """Our workers; multiprocessing's own resource tracker stays until we end."""
    return {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    }


def gone(pid: int, within_s: float = 100.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def appears(path: Path, within_s: float = 100.0) -> str:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.01)
    raise AssertionError(f"{path} was not written")


# Results


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=st.lists(st.one_of(st.integers(), st.floats(allow_nan=False)), max_size=9))
def test_map_is_that_of_concurrent_futures(pool, items):
    with ThreadPoolExecutor(3) as executor:
        assert pool.map(tasks.square, items) == list(executor.map(tasks.square, items))


def test_order_is_that_of_the_items_not_of_the_ends(pool):
    items = [(0.2, 1), (0.0, 2), (0.1, 3), (0.0, 4), (0.0, 5)]
    assert pool.map(tasks.slow_square, items) == [1, 4, 9, 16, 25]
    assert pool.map(tasks.square, iter(range(3))) == [0, 1, 4]


def test_submit_passes_all_arguments_and_returns_a_future(pool):
    futures = [pool.submit(pow, 7, k, 11) for k in range(5)]
    assert [future.result() for future in futures] == [1, 7, 5, 2, 3]


def test_every_worker_takes_part(pool):
    before = len(pool.spans)
    pool.map(tasks.sleep, [0.1] * 4)
    assert {span.worker for span in pool.spans[before:]} == {0, 1}


def test_processes_are_others_and_threads_are_we(pool):
    pids = set(pool.map(tasks.sleep, [0.1] * 4))
    assert pids == {os.getpid()} if pool.kind == "thread" else os.getpid() not in pids


def test_large_payloads_go_both_ways(processes):
    value = os.urandom(20_000_003)
    assert processes.submit(tasks.echo, value).result() == value


def test_workers_import_only_what_their_tasks_need():
    # The child imports this run's main module, and pytest's is none of ours.
    with WorkerPool(1) as pool:
        assert pool.submit(tasks.modules).result() == []


def test_progress_counts_the_tasks(pool, capsys):
    assert pool.map(tasks.square, range(3), progress=True) == [0, 1, 4]
    assert "3/3" in capsys.readouterr().err
    pool.map(tasks.square, range(3))
    assert capsys.readouterr().err == ""


# Tasks that raise


def test_the_exception_is_the_tasks_own_with_the_workers_traceback(pool):
    with pytest.raises(ZeroDivisionError) as caught:
        pool.map(tasks.divide, [1, 0, 2])
    (note,) = caught.value.__notes__
    assert "raised in worker" in note
    if pool.kind == "process":
        assert "in divide\n    return 6 // x" in note
        assert "pool_child" not in note
    assert pool.map(tasks.divide, [1, 2]) == [6, 3]


def test_the_earliest_failure_is_raised_and_the_rest_is_cancelled(pool, tmp_path):
    with pytest.raises(KeyError, match="the first of all"):
        pool.map(tasks.touch_or_fail, [(tmp_path, name) for name in range(40)])
    pool.map(tasks.square, range(4))  # what ran when the failure came has ended
    assert len(list(tmp_path.iterdir())) < 20


def test_a_failure_does_not_wait_for_the_slow(pool, tmp_path):
    with pytest.raises(TypeError, match="NoneType"):
        pool.map(tasks.wait_for, [tmp_path / "end", None])
    (tmp_path / "end").touch()  # until now the first task waits for this file


def test_an_exception_that_cannot_travel_is_quoted(processes):
    with pytest.raises(RuntimeError, match="Odd: 1 and 2") as caught:
        processes.submit(tasks.odd).result()
    assert "in odd\n    raise Odd(1, 2)" in caught.value.__notes__[0]


# What cannot be sent


def test_what_cannot_be_pickled_is_refused_and_the_pool_lives(processes):
    pids = set(processes.map(tasks.sleep, [0.1] * 4))
    with pytest.raises(TypeError, match=r"task \d+, .*<lambda>\(3\) cannot be pickled"):
        processes.submit(lambda x: x, 3).result()
    with pytest.raises(TypeError, match="its result, a lock, cannot be pickled"):
        processes.submit(tasks.a_lock).result()
    with pytest.raises(TypeError, match=r"result cannot be unpickled .*made to fail"):
        processes.submit(tasks.fragile).result()
    assert set(processes.map(tasks.sleep, [0.1] * 4)) == pids


def test_a_function_of_a_notebook_is_refused_and_the_pool_lives(processes, monkeypatch):
    """Such a function pickles here, by its name, and is unknown there."""

    def ghost():
        return 1

    ghost.__module__, ghost.__qualname__ = "__main__", "ghost"
    monkeypatch.setattr(sys.modules["__main__"], "ghost", ghost, raising=False)
    with pytest.raises(TypeError, match="must stand in a module that can be imported"):
        processes.submit(ghost).result()
    assert processes.map(tasks.square, [3]) == [9]


# Workers that die


@pytest.mark.parametrize(
    ("how", "ending", "code"),
    [
        ("kill", "killed by SIGKILL", -9),
        ("_exit", "exit code 3", 3),
        ("exit", "exit code 4", 4),
        ("segfault", "killed by SIGSEGV", -11),
        ("fork", "exit code 5", 5),
    ],
)
def test_a_dead_worker_is_reported_with_its_task_and_replaced(processes, how, ending, code):
    future = processes.submit(tasks.die, how)
    message = rf"worker [01] died \({ending}\) while it ran task \d+, die\('{how}'\)"
    with pytest.raises(WorkerDied, match=message) as caught:
        future.result(timeout=100)
    assert caught.value.exit_code == code
    assert caught.value.worker == processes.spans[-1].worker
    assert len(set(processes.map(tasks.sleep, [0.1] * 4))) == 2


def test_only_the_task_of_the_dead_worker_is_lost(processes):
    futures = [processes.submit(tasks.sleep, 0.05) for _ in range(3)]
    lost = processes.submit(tasks.die, "kill")
    futures += [processes.submit(tasks.sleep, 0.05) for _ in range(5)]
    assert all(future.result() for future in futures)
    assert isinstance(lost.exception(), WorkerDied)


def test_a_worker_that_died_idle_costs_no_task(processes):
    pids = set(processes.map(tasks.sleep, [0.1] * 4))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    fresh = set(processes.map(tasks.sleep, [0.1] * 4))
    assert len(fresh) == 2
    assert not fresh & pids


def test_a_thread_that_exits_is_reported_like_a_process():
    with WorkerPool(1, kind="thread") as pool:
        with pytest.raises(WorkerDied, match=r"exit code 4.*die\('exit'\)"):
            pool.map(tasks.die, ["exit"])
        assert pool.map(tasks.square, [3]) == [9]


# Tasks that take too long


def test_a_slow_process_is_killed_and_replaced(processes, tmp_path):
    processes.map(tasks.sleep, [0.1] * 4)  # both are up
    future = processes.submit(tasks.write_pid_and_sleep, tmp_path / "pid", 600, timeout_s=2)
    message = r"task \d+, write_pid_and_sleep\(.*, 600\) was still running in worker [01] after 2 s"
    with pytest.raises(TaskTimeout, match=message) as caught:
        future.result(timeout=100)
    assert gone(int((tmp_path / "pid").read_text()))
    assert caught.value.timeout_s == 2
    assert 2 <= processes.spans[-1].end_s - processes.spans[-1].start_s < 60
    assert processes.map(tasks.square, range(3), timeout_s=30) == [0, 1, 4]


def test_a_slow_thread_is_left_and_a_spare_takes_its_place(tmp_path):
    before = set(threading.enumerate())
    with WorkerPool(1, kind="thread") as pool:
        with pytest.raises(TaskTimeout, match=r"in worker 0 after 0\.1 s"):
            pool.map(tasks.wait_for, [tmp_path / "end"], timeout_s=0.1)
        assert pool.map(tasks.square, range(3), timeout_s=30) == [0, 1, 4]
        names = [thread.name for thread in set(threading.enumerate()) - before]
        assert sorted(names) == ["watcher of worker 0", "worker 0", "worker 0"]
        (tmp_path / "end").touch()
    end_s = time.monotonic() + 100
    while set(threading.enumerate()) - before:
        assert time.monotonic() < end_s, "the thread that was left should have ended with its task"
        time.sleep(0.01)


def test_the_time_is_that_of_the_task_not_of_its_queue_nor_of_the_workers_start():
    with WorkerPool(1) as pool:
        assert len(pool.map(tasks.sleep, [0.2] * 30, timeout_s=5)) == 30


# Spans


def test_spans_lie_on_one_clock_and_do_not_overlap(pool):
    start_s = time.monotonic()
    pool.map(tasks.sleep, [0.06] * 5)
    end_s = time.monotonic()
    # A task that an earlier test left behind may begin or end only now: ours came last.
    last = max(span.task for span in pool.spans)
    spans = [span for span in pool.spans if span.task > last - 5]
    assert sorted(span.task for span in spans) == [*range(last - 4, last + 1)]
    assert all(start_s <= span.start_s <= span.end_s <= end_s for span in spans)
    assert all(span.end_s - span.start_s >= 0.06 for span in spans)
    for worker in (0, 1):
        own = [span for span in spans if span.worker == worker]
        assert all(a.end_s <= b.start_s for a, b in pairwise(own))
    assert [span.start_s for span in spans] == sorted(span.start_s for span in spans)


# Closing


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_leaving_the_block_finishes_what_was_submitted(kind, tmp_path):
    before = children()
    with WorkerPool(2, kind=kind) as pool:
        for name in range(6):
            pool.submit(tasks.touch, tmp_path, name, 0.03)
    assert len(list(tmp_path.iterdir())) == 6
    assert children() == before
    with pytest.raises(RuntimeError, match="expected an open pool"):
        pool.submit(tasks.square, 2)
    with pytest.raises(RuntimeError, match="expected an open pool"):
        pool.map(tasks.square, [2])
    pool.close()
    assert "closed" in repr(pool)


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_an_exception_in_the_block_ends_everything_at_once(kind, tmp_path):
    before = children()
    start_s = time.monotonic()
    with suppress(ZeroDivisionError), WorkerPool(1, kind=kind) as pool:
        running = pool.submit(tasks.wait_for, tmp_path / "end")
        waiting = pool.submit(tasks.square, 2)
        while not running.running():
            time.sleep(0.005)
        1 / 0  # noqa: B018
    assert time.monotonic() - start_s < 100
    with pytest.raises(WorkerDied, match="the pool was closed"):
        running.result(timeout=100)
    with pytest.raises(CancelledError):
        waiting.result(timeout=100)
    assert children() == before
    (tmp_path / "end").touch()


def test_nothing_is_left_by_a_pool_that_was_never_used():
    before, threads = children(), set(threading.enumerate())
    WorkerPool(3).close()
    WorkerPool(3).close(wait=False)
    assert children() == before
    assert set(threading.enumerate()) <= threads


# The end of the process that has the pool


def script(tmp_path: Path, body: str) -> subprocess.Popen:
    file = tmp_path / "script.py"
    file.write_text(
        "from companion.processes.worker_pool import WorkerPool\n"
        "from tests.processes import pool_tasks as tasks\n"
        f"if __name__ == '__main__':\n{textwrap.indent(textwrap.dedent(body), '    ')}"
    )
    return subprocess.Popen(
        [sys.executable, str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C for all of it, and for nobody else
    )


def test_the_first_process_of_an_interpreter_is_born_deaf_to_ctrl_c(tmp_path):
    """Starting it starts multiprocessing's resource tracker too, which unblocks SIGINT."""
    file = tmp_path / "script.py"
    file.write_text(
        "import multiprocessing, signal\n"
        "from companion.processes.ranks.interrupts import interrupts_masked\n"
        "if __name__ == '__main__':\n"
        "    with interrupts_masked():\n"
        "        process = multiprocessing.get_context('spawn').Process(target=int)\n"
        "        process.start()\n"
        "        print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "    process.join()\n"
    )
    command, env = [sys.executable, str(file)], {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.check_output(command, env=env, text=True, timeout=200) == "True\n"


def test_ctrl_c_ends_all_with_one_traceback(tmp_path):
    path = tmp_path / "pid"
    running = script(
        tmp_path,
        f"""\
        with WorkerPool(2) as pool:
            pool.submit(tasks.sleep, 600)
            pool.map(tasks.write_pid_and_spin, [{str(path)!r}])
        """,
    )
    worker = int(appears(path))
    os.killpg(running.pid, signal.SIGINT)
    output, error = running.communicate(timeout=200)
    assert running.returncode == -signal.SIGINT
    assert (error.count("Traceback"), output) == (1, "")
    assert "KeyboardInterrupt" in error
    assert gone(worker)


def test_workers_do_not_outlive_a_pool_that_was_killed(tmp_path):
    path = tmp_path / "pid"
    body = f"WorkerPool(1).map(tasks.write_pid_and_spin, [{str(path)!r}])"
    running = script(tmp_path, body)
    worker = int(appears(path))
    running.kill()
    running.communicate(timeout=200)
    assert gone(worker)


def test_a_pool_that_nobody_closed_does_not_keep_the_interpreter(tmp_path):
    path = tmp_path / "pid"
    running = script(
        tmp_path,
        f"""\
        import time, pathlib
        for kind in ("thread", "process"):
            pool = WorkerPool(2, kind=kind)
            pool.submit(tasks.sleep, 600)
        pool.submit(tasks.write_pid_and_spin, {str(path)!r})
        while not pathlib.Path({str(path)!r}).exists():
            time.sleep(0.01)
        """,
    )
    worker = int(appears(path))
    output, error = running.communicate(timeout=200)
    assert (running.returncode, output, error) == (0, "", "")
    assert gone(worker)


def test_a_script_without_a_guard_is_told_and_does_not_breed(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(
        "from companion.processes.worker_pool import WorkerPool\n"
        "print(WorkerPool(1).map(abs, [-1]))\n"
    )
    done = subprocess.run(
        [sys.executable, str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert "WorkerDied: worker 0 died (exit code 1) while it started up for task 0, abs(-1)" in (
        done.stderr
    )
    assert "if __name__ == '__main__':" in done.stderr


# Arguments


@pytest.mark.parametrize(
    ("n", "kind", "error", "message"),
    [
        (0, "process", ValueError, "n must be at least 1, got 0"),
        (-2, "thread", ValueError, "n must be at least 1, got -2"),
        (True, "thread", TypeError, "n: expected an integer, got True"),
        (2.0, "thread", TypeError, "n: expected an integer, got 2.0"),
        (2, "fork", ValueError, "kind must be one of process, thread, got 'fork'"),
    ],
)
def test_wrong_arguments_are_named(n, kind, error, message):
    with pytest.raises(error, match=message):
        WorkerPool(n, kind=kind)


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_a_timeout_is_positive(pool, timeout_s):
    with pytest.raises(ValueError, match="timeout_s must be above 0, got"):
        pool.submit(tasks.square, 2, timeout_s=timeout_s)
