"""threads(): against /proc, psutil, threading and a process that we control."""

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from companion.processes import thread_list
from companion.processes.thread_list import ThreadInfo, threads

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
def asleep():
    """Three Python threads that wait; the middle one is no daemon."""
    end = threading.Event()
    crew = [
        threading.Thread(target=wait_here, args=(end,), name=f"asleep {n}", daemon=n != 1)
        for n in range(3)
    ]
    for thread in crew:
        thread.start()
    yield crew
    end.set()
    for thread in crew:
        thread.join()


def wait_here(end: threading.Event) -> None:
    end.wait()


@pytest.fixture
def native():
    """A thread that C started and that never enters Python; its system number."""
    libc = ctypes.CDLL(None)
    before = listed_by_proc()
    number = ctypes.c_ulong()
    libc.pthread_create(ctypes.byref(number), None, libc.sleep, ctypes.c_void_p(60))
    (new,) = listed_by_proc() - before
    yield new
    libc.pthread_cancel(number)
    libc.pthread_join(number, None)


@pytest.fixture
def other():
    """Another process: four threads, of which one has used processor time; starts when ready."""
    program = """
import sys, threading, time
end = threading.Event()
for _ in range(3):
    threading.Thread(target=end.wait, daemon=True).start()
while time.process_time() < 0.3:
    pass
print("ready", flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def listed_by_proc(pid: int | None = None) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{pid or os.getpid()}/task")}


def one(*, name: str | None = None, native_id: int | None = None) -> ThreadInfo:
    (found,) = (t for t in threads() if name == t.name or native_id == t.native_id)
    return found


def until(look, within_s: float = 10.0):
    end = time.monotonic() + within_s
    while not (value := look()):
        assert time.monotonic() < end, "never came true"
        time.sleep(0.001)
    return value


# The list


@linux
def test_every_thread_of_the_system_is_listed_once(asleep, native):
    numbers = [t.native_id for t in threads()]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) == listed_by_proc() == {t.id for t in psutil.Process().threads()}


@linux
def test_what_python_knows(asleep):
    found = {t.ident: t for t in threads() if t.ident is not None}
    assert found.keys() == {t.ident for t in threading.enumerate()}
    for thread in threading.enumerate():
        info = found[thread.ident]
        assert (info.name, info.native_id) == (thread.name, thread.native_id)
        assert (info.daemon, info.alive) == (thread.daemon, True)
    assert [one(name=f"asleep {n}").daemon for n in range(3)] == [True, False, True]


@linux
def test_a_thread_that_python_does_not_know(native):
    info = until(lambda: (t := one(native_id=native)).state == "sleeping" and t)
    assert (info.ident, info.daemon, info.frame, info.alive) == (None, None, None, True)
    assert info.name == Path(f"/proc/self/task/{native}/comm").read_text().rstrip("\n")


@linux
def test_known_threads_come_first(asleep, native):
    keys = [(t.native_id != os.getpid(), t.ident is None, t.native_id) for t in threads()]
    assert keys == sorted(keys)
    assert threads()[0].name == "MainThread"
    assert threads()[-1].ident is None


@linux
@pytest.mark.parametrize("name", [") R 1 (", "a b) Z 2 3", "((", ")"])
def test_a_name_may_hold_anything(native, name):
    until(lambda: one(native_id=native).state == "sleeping")
    Path(f"/proc/self/task/{native}/comm").write_text(name)
    info = one(native_id=native)
    assert (info.name, info.state, info.cpu_s) == (name, "sleeping", pytest.approx(0, abs=0.02))


@linux
def test_an_ended_thread_is_gone():
    thread = threading.Thread(target=int, name="short")
    thread.start()
    number = thread.native_id
    thread.join()
    assert "short" not in {t.name for t in threads()}
    until(lambda: number not in {t.native_id for t in threads()})


@linux
def test_threads_may_come_and_go_while_we_look():
    end = time.monotonic() + 0.4
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            threading.Thread(target=int).start()

    maker = threading.Thread(target=come_and_go)
    maker.start()
    try:
        while time.monotonic() < end:
            assert all(t.alive and t.state != "unknown" for t in threads())
    finally:
        stop.set()
        maker.join()


# One thread


@linux
def test_states(asleep):
    until(lambda: all(one(name=f"asleep {n}").state == "sleeping" for n in range(3)))
    assert one(name="MainThread").state == "running"


@linux
def test_a_thread_that_computes():
    end, used = threading.Event(), []

    def compute():
        block = bytes(2**20)
        while not end.is_set():
            hashlib.sha256(block)  # without the interpreter's lock
        used.append(time.thread_time())

    thread = threading.Thread(target=compute, name="computes")
    thread.start()
    try:
        until(lambda: one(name="computes").state == "running")
        cpu_s = until(lambda: (c := one(name="computes").cpu_s) >= 0.2 and c)
    finally:
        end.set()
        thread.join()
    assert cpu_s <= used[0] + 0.02  # a tick is 0.01 s
    assert used[0] < cpu_s + 1


@linux
def test_processor_time_counts_the_kernel_too():
    zeros, info = os.open("/dev/zero", os.O_RDONLY), None
    try:
        start = os.times()
        while os.times().system - start.system < 0.15:
            os.read(zeros, 2**24)
        info = threads()[0]
        own = next(t for t in psutil.Process().threads() if t.id == info.native_id)
    finally:
        os.close(zeros)
    assert info.cpu_s == pytest.approx(own.user_time + own.system_time, abs=0.05)
    assert own.system_time > 0.1


def test_the_innermost_function_of_who_asks():
    def ask():
        return threads()[0].frame

    code = ask.__code__
    assert ask() == f"test_thread_list.py:{code.co_firstlineno + 1} in ask"


def test_the_innermost_function_of_others(asleep):
    def frame():
        return one(name="asleep 1").frame or ""

    assert until(lambda: frame().startswith("threading.py:") and frame()).endswith(" in wait")


# Another process


@linux
def test_another_process(other):
    found = threads(other.pid)
    oracle = {t.id: t for t in psutil.Process(other.pid).threads()}
    assert {t.native_id for t in found} == oracle.keys() == listed_by_proc(other.pid)
    assert len(found) == 4
    assert all((t.ident, t.daemon, t.frame, t.alive) == (None,) * 3 + (True,) for t in found)
    for info in found:
        times = oracle[info.native_id]
        assert info.cpu_s == pytest.approx(times.user_time + times.system_time, abs=0.02)
    assert max(t.cpu_s for t in found) > 0.25
    comm = Path(f"/proc/{other.pid}/comm").read_text().rstrip("\n")
    assert {t.name for t in found} == {comm}


@linux
def test_a_stopped_process_and_a_zombie(other):
    other.send_signal(signal.SIGSTOP)
    until(lambda: {t.state for t in threads(other.pid)} == {"stopped"})
    other.kill()
    until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE)
    until(lambda: [(t.state, t.alive) for t in threads(other.pid)] == [("zombie", False)])


def test_our_own_number_is_this_process(asleep):
    known = {t.ident for t in threads(os.getpid())}
    assert {t.ident for t in asleep} < known


# Errors and other systems


def test_no_such_process(other):
    other.kill()
    other.wait()
    with pytest.raises(ProcessLookupError, match=f"no process with pid {other.pid}"):
        threads(other.pid)


@pytest.mark.parametrize("pid", [0, -1])
def test_numbers_that_are_no_pid(pid):
    with pytest.raises(ValueError, match=f"pid must be at least 1, got {pid}"):
        threads(pid)


@pytest.mark.parametrize("pid", [True, "1", 1.0])
def test_things_that_are_no_number(pid):
    with pytest.raises(TypeError, match="pid: expected an integer, got "):
        threads(pid)


def test_without_proc(monkeypatch, asleep, other):
    monkeypatch.setattr(thread_list.sys, "platform", "darwin")
    found = threads()
    assert {t.ident for t in found} == {t.ident for t in threading.enumerate()}
    assert {t.state for t in found} == {"unknown"}
    assert {t.name for t in found} >= {"MainThread", "asleep 0", "asleep 1", "asleep 2"}
    abroad = threads(other.pid)
    assert len(abroad) == len(psutil.Process(other.pid).threads())
    assert {(t.state, t.ident) for t in abroad} == {("unknown", None)}
    other.kill()
    other.wait()
    with pytest.raises(ProcessLookupError, match="no process with pid"):
        threads(other.pid)
