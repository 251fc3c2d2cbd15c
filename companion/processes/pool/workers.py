"""One worker of a pool, as a process or as a thread: run a task, replace what is lost.

Each worker has a thread of the pool that calls ``run`` and sleeps until the task is done.
"""

import pickle
import queue
import runpy
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from companion.processes.pool import child as pool_child
from companion.processes.pool.errors import TaskTimeout, WorkerDied
from companion.processes.ranks.interrupts import interrupts_masked

__all__ = ["Outcome", "ProcessWorker", "Task", "ThreadWorker"]

_SPAWN = get_context("spawn")  # fork would copy locks that other threads hold
_GRACE_S = 5.0  # a worker that was told to leave may finish what it does at exit
_LOOK_S = 0.5  # a grandchild may keep a dead worker's pipe open: look at the process itself, too


class Task(NamedTuple):
    """A call to make, and its name in messages."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    timeout_s: float | None
    name: str


class Outcome(NamedTuple):
    """A result or an error, and when the task ran (``time.monotonic``)."""

    value: Any
    error: BaseException | None
    start_s: float
    end_s: float


class ProcessWorker:
    """A spawned process that is killed when a task takes too long, and replaced when it dies."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._changing = threading.Lock()
        self._stopped = False
        self._start()

    def run(self, task: Task) -> Outcome:
        """Run one task; what goes wrong is returned, not raised."""
        start_s = time.monotonic()
        try:
            request = pickle.dumps((task.fn, task.args), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            refusal = TypeError(
                f"{task.name} cannot be pickled and sent to a process: give a function of a "
                f"module and picklable arguments ({type(error).__name__}: {error})"
            )
            return Outcome(None, refusal, start_s, time.monotonic())
        has_begun = False
        try:
            self._hand_over(request)
            has_begun, start_s = True, time.monotonic()
            return _read(self._receive(task.timeout_s))
        except TimeoutError:
            error = TaskTimeout(worker=self.index, task=task.name, timeout_s=task.timeout_s)
        except (EOFError, OSError):
            code = self._end(grace_s=_GRACE_S)
            code = None if self._stopped else code
            stage = "ran" if has_begun else "unpickled" if self._is_ready else "started up for"
            error = WorkerDied(worker=self.index, exit_code=code, task=task.name, stage=stage)
        end_s = time.monotonic()
        self._end()
        if has_begun:  # else wait for a task: what cannot start must not be started for ever
            self._start()
        return Outcome(None, error, start_s, end_s)

    def stop(self) -> None:
        """End the process now, and start no other."""
        with self._changing:
            self._stopped = True
            self._process.kill()

    def hang_up(self) -> None:
        """Let the process go when it is idle; ``join`` waits for it."""
        self._connection.close()

    def join(self) -> None:
        """Wait until the process is gone; one that stays is killed."""
        self._end(grace_s=_GRACE_S)

    def _start(self) -> None:
        with self._changing:
            if self._stopped:
                return
            self._connection, theirs = _SPAWN.Pipe()
            self._process = _SPAWN.Process(
                target=runpy.run_path,
                args=(str(Path(pool_child.__file__)),),
                kwargs={
                    "init_globals": {"connection": theirs, "worker": self.index},
                    "run_name": pool_child.RUN_NAME,
                },
                name=f"worker {self.index}",
            )
            with theirs, interrupts_masked():
                self._process.start()
            self._is_ready = False

    def _hand_over(self, request: bytes) -> None:
        """Have the worker begin the task; a new one, should this one have died idle."""
        try:
            self._send(request)
        except (EOFError, OSError):
            if self._stopped or not self._is_ready:
                raise
            self._end()
            self._start()
            self._send(request)

    def _send(self, request: bytes) -> None:
        if not self._process.is_alive():
            self._end()
            self._start()
        if not self._is_ready:
            self._receive(None)
            self._is_ready = True
        self._connection.send_bytes(request)
        self._receive(None)  # STARTED

    def _receive(self, timeout_s: float | None) -> bytes:
        end_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = end_s - time.monotonic()
            if wait([self._connection, self._process.sentinel], max(0.0, min(left_s, _LOOK_S))):
                if self._connection.poll():  # its last words, if it has also ended
                    return self._connection.recv_bytes()
                raise EOFError
            if left_s <= 0:
                raise TimeoutError
            if not self._process.is_alive() and not self._connection.poll():
                raise EOFError

    def _end(self, *, grace_s: float = 0.0) -> int | None:
        """Exit code of the process, which is killed if it outlives the grace."""
        self._connection.close()
        self._process.join(grace_s)
        self._process.kill()
        while self._process.exitcode is None:  # another thread may be reaping it at this moment
            self._process.join(0.01)
        return self._process.exitcode


class ThreadWorker:
    """A thread that is left to itself when a task takes too long; a spare takes its place.

    Nothing can end a thread from outside: the task runs on, and its result is thrown away.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self._start()

    def run(self, task: Task) -> Outcome:
        """Run one task; what goes wrong is returned, not raised."""
        start_s = time.monotonic()
        self._requests.put(task)
        try:
            return self._replies.get(timeout=task.timeout_s)
        except queue.Empty:
            error = TaskTimeout(worker=self.index, task=task.name, timeout_s=task.timeout_s)
            end_s = time.monotonic()
            self.hang_up()
            self._start()
            return Outcome(None, error, start_s, end_s)

    def stop(self) -> None:
        """Wait no longer for what runs."""
        now_s = time.monotonic()
        closed = WorkerDied(worker=self.index, exit_code=None, task="its task")
        self._replies.put(Outcome(None, closed, now_s, now_s))

    def hang_up(self) -> None:
        """Let the thread end once it is idle."""
        self._requests.put(None)

    def join(self) -> None:
        """Nothing to wait for: a thread that hangs would hang us."""

    def _start(self) -> None:
        self._requests: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        # A daemon: a task without end must not keep the interpreter from leaving.
        threading.Thread(
            target=_serve_thread,
            args=(self._requests, self._replies, self.index),
            name=f"worker {self.index}",
            daemon=True,
        ).start()


def _serve_thread(requests: queue.SimpleQueue, replies: queue.SimpleQueue, worker: int) -> None:
    while (task := requests.get()) is not None:
        value, error, start_s = None, None, time.monotonic()
        try:
            value = task.fn(*task.args)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
            error = WorkerDied(worker=worker, exit_code=code, task=task.name)
        except BaseException as raised:
            raised.add_note(f"raised in worker {worker} (a thread)")
            error = raised
        replies.put(Outcome(value, error, start_s, time.monotonic()))
        del task, value, error  # keep nothing alive while waiting for the next


def _read(message: bytes) -> Outcome:
    ok, start_s, end_s, payload = pickle.loads(message)
    try:
        value = pickle.loads(payload)
    except Exception as error:
        refusal = TypeError(
            f"the task ran, but its result cannot be unpickled ({type(error).__name__}: {error})"
        )
        return Outcome(None, refusal, start_s, end_s)
    return Outcome(value, None, start_s, end_s) if ok else Outcome(None, value, start_s, end_s)
