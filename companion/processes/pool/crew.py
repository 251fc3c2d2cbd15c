"""Workers that do one piece of work at the same moment, as often as they are asked to.

Threads and processes are served alike, over a pipe each.
Chapter: course/10_processes.ipynb.
"""

import contextlib
import multiprocessing
import pickle
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Literal, Self

__all__ = ["Crew", "WorkFailed"]

HEAD_START_S = 0.004  # from the message to the start: all have read it by then
EACH_S = 0.0005


class WorkFailed(RuntimeError):
    """The work raised, or ended its worker; the message has the traceback."""


class Crew:
    """Workers that have done the work once when the crew is entered.

    Args:
        work: Called without arguments.
        size: Workers.
        kind: ``"thread"`` or ``"process"`` (spawned).

    Raises:
        ValueError: There is no such kind, or ``work`` cannot be sent to a process.
        WorkFailed: On entering, ``work`` raises.
    """

    def __init__(
        self, work: Callable[[], object], *, size: int, kind: Literal["thread", "process"]
    ) -> None:
        if kind not in ("thread", "process"):
            raise ValueError(f"kind must be 'thread' or 'process', got {kind!r}")
        if kind == "process":
            _check_picklable(work)
        self._make = (
            threading.Thread if kind == "thread" else multiprocessing.get_context("spawn").Process
        )
        self._work, self._size = work, size
        self._workers: list = []
        self._lines: list[Connection] = []

    def __enter__(self) -> Self:
        try:
            for number in range(self._size):
                self._start(number)
            for number in range(self._size):
                self._answer(number)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def time_s(self, count: int) -> float:
        """Let the first ``count`` workers do the work; from the first start to the last end."""
        # The monotonic clock is the same in all processes of a machine.
        at = time.monotonic() + HEAD_START_S + EACH_S * count
        for line in self._lines[:count]:
            line.send(at)
        spans = [self._answer(number) for number in range(count)]
        return max(end for _, end in spans) - min(start for start, _ in spans)

    def _start(self, number: int) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._lines.append(ours)
        worker = self._make(target=_serve, args=(self._work, theirs), name=f"crew-{number}")
        worker.start()
        self._workers.append(worker)
        if not isinstance(worker, threading.Thread):
            theirs.close()  # the process has its own; so its end can be noticed

    def _answer(self, number: int) -> tuple[float, float]:
        try:
            answer = self._lines[number].recv()
        except (EOFError, ConnectionError):
            self._workers[number].join()
            raise WorkFailed(
                f"worker {number} ended with exit code {self._workers[number].exitcode}; the work "
                "of a process must stand in a module that can be imported"
            ) from None
        if isinstance(answer, str):
            raise WorkFailed(f"the work of worker {number} failed:\n{answer}")
        return answer

    def _end(self) -> None:
        for line in self._lines:
            line.close()  # which tells the worker to go
        for worker in self._workers:
            if isinstance(worker, threading.Thread):
                worker.join()
                continue
            worker.join(5.0)
            worker.kill()
            worker.join()
            worker.close()
        self._lines, self._workers = [], []


def _serve(work: Callable[[], object], line: Connection) -> None:
    """A worker's life: warm up, then work at every moment that it is told."""
    with line, contextlib.suppress(EOFError, ConnectionError):
        at: float | None = None
        while True:
            try:
                if at is not None:
                    time.sleep(max(0.0, at - time.monotonic()))
                start = time.monotonic()
                work()
                answer: object = (start, time.monotonic())
            except Exception:
                answer = traceback.format_exc()
            line.send(answer)
            at = line.recv()


def _check_picklable(work: Callable[[], object]) -> None:
    try:
        pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "work must be picklable, as a function of a module or a functools.partial of one, "
            f"got {work!r}: {error}"
        ) from None
