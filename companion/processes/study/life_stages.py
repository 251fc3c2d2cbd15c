"""One thread from new to terminated, looked at in every state.

Nothing depends on luck: the thread enters a stage when told, and stays until it has been seen.

Source: Python documentation, module threading, "Thread objects"; Linux man-pages,
proc_pid_stat(5). Chapter: course/10_processes.ipynb.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from companion.processes.thread_list import ThreadInfo, threads

__all__ = ["Stage", "thread_life"]

_PATIENCE_S = 20.0
_BLOCK = bytes(2**20)  # hashed outside the interpreter's lock: below it we could not look


class Stage(NamedTuple):
    """What could be seen of a thread in one stage of its life."""

    name: str
    is_alive: bool
    listed: bool
    """Whether ``threads()`` has it."""
    state: str | None
    """The system's word, None if the thread is not listed."""
    doing: str

    def __str__(self) -> str:
        state = self.state if self.listed else "not in the list"
        return f"{self.name:11} is_alive {self.is_alive!s:6} {state:16} {self.doing}"


class _Life:
    """What the thread does, one method per stage; ``seen`` ends a stage."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seen = {name: threading.Event() for name in ("running", "sleeping")}
        self.thread = threading.Thread(target=self._live, name="thread-life", daemon=True)

    def _live(self) -> None:
        self.compute()
        self.wait_for_lock()
        self.pause()

    def compute(self) -> None:
        while not self.seen["running"].is_set():
            hashlib.sha256(_BLOCK)

    def wait_for_lock(self) -> None:
        with self.lock:
            pass

    def pause(self) -> None:
        while not self.seen["sleeping"].is_set():
            time.sleep(0.02)


def thread_life() -> list[Stage]:
    """Lead one thread through new, running, blocked, sleeping and terminated.

    Returns:
        One stage each, in this order. A blocked and a sleeping thread are both "sleeping" for
        the system; what they wait for differs.

    Raises:
        TimeoutError: If a stage cannot be seen within 20 s.

    Example:
        >>> print(thread_life()[0])
        new         is_alive False  not in the list  has not been started
    """
    life = _Life()
    stages = [_look(life.thread, "new", "has not been started")]
    try:
        with life.lock:
            life.thread.start()
            stages.append(_seen(life.thread, "running", "running", life.compute, "computes"))
            life.seen["running"].set()
            waits = "waits for a lock"
            stages.append(_seen(life.thread, "blocked", "sleeping", life.wait_for_lock, waits))
        stages.append(_seen(life.thread, "sleeping", "sleeping", life.pause, "pauses"))
    finally:  # whatever happened, the thread can end
        for event in life.seen.values():
            event.set()
    life.thread.join()
    return [*stages, _look(life.thread, "terminated", _start_again(life.thread))]


def _seen(thread: threading.Thread, name: str, state: str, where: Callable, doing: str) -> Stage:
    """Look until the thread is in this function and this state, and no longer."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        found = _find(thread)
        if (
            found is not None
            and (found.frame or "").endswith(f" {where.__name__}")
            and found.state in (state, "unknown")
        ):
            return Stage(name, thread.is_alive(), True, found.state, doing)
    raise TimeoutError(f"no thread {state} in {where.__name__} within {_PATIENCE_S:.0f} s")


def _look(thread: threading.Thread, name: str, doing: str) -> Stage:
    found = _find(thread)
    return Stage(
        name, thread.is_alive(), found is not None, None if found is None else found.state, doing
    )


def _find(thread: threading.Thread) -> ThreadInfo | None:
    # An ident may be given to a later thread; with the name it is ours.
    wanted = (thread.ident, thread.name)
    return next((info for info in threads() if (info.ident, info.name) == wanted), None)


def _start_again(thread: threading.Thread) -> str:
    try:
        thread.start()
    except RuntimeError:
        return "cannot be started again"
    return "was started again"
