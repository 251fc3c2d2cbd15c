"""A lock that keeps a record of who holds it and who waits for it.

All traced locks of a program share one book, which changes as a whole: whoever reads it sees one
moment, never half a change.

Chapter: course/10_processes.ipynb.
"""

import threading
import time
from collections.abc import Collection
from typing import Self

from companion.checks import check_number, typed

__all__ = ["BOOK", "DeadlockBroken", "LockBook", "TracedLock", "Wait"]


class DeadlockBroken(RuntimeError):
    """Raised in a waiting ``acquire`` when its deadlock is broken; the lock was not taken."""


class Wait:
    """One thread that waits for one lock."""

    def __init__(self, lock: "TracedLock", *, timed: bool) -> None:
        self.lock = lock
        self.timed = timed
        """Whether it ends by itself."""
        self.broken = False


class LockBook:
    """Who holds what and who waits for what; read and write it under ``changed``."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holders: dict[TracedLock, threading.Thread] = {}
        self.waits: dict[threading.Thread, Wait] = {}

    def break_waits(self, waits: Collection[Wait]) -> int:
        """Raise ``DeadlockBroken`` in those who still wait; returns how many they are."""
        with self.changed:
            standing = [wait for wait in self.waits.values() if wait in waits]
            for wait in standing:
                wait.broken = True
            self.changed.notify_all()
        return len(standing)


BOOK = LockBook()


class TracedLock:
    """A lock as ``threading.Lock``, whose holder and waiting threads are on record.

    Not reentrant: a thread that asks for a lock which it holds waits for itself, a deadlock of
    one. Only the holder may release it.

    Args:
        name: What it is called in reports.

    Raises:
        TypeError: If the name is not a str.

    Example:
        >>> with TracedLock("accounts") as lock:
        ...     print(lock.holder, lock.acquire(timeout_s=0))
        MainThread False
    """

    @typed
    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def holder(self) -> str | None:
        """Name of the thread that holds the lock, None if it is free."""
        with BOOK.changed:
            thread = BOOK.holders.get(self)
        return None if thread is None else thread.name

    def acquire(self, *, timeout_s: float | None = None) -> bool:
        """Take the lock, waiting for it if another thread holds it.

        Args:
            timeout_s: Longest wait in s, 0 for none at all; None waits for ever.

        Returns:
            Whether the lock was taken.

        Raises:
            ValueError: If the timeout is negative.
            DeadlockBroken: If the wait was part of a deadlock that somebody broke.
        """
        if timeout_s is not None:
            check_number("timeout_s", timeout_s, least=0, most=threading.TIMEOUT_MAX)
        me = threading.current_thread()
        with BOOK.changed:
            if self in BOOK.holders and not self._wait(me, timeout_s):
                return False
            BOOK.holders[self] = me
        return True

    def _wait(self, me: threading.Thread, timeout_s: float | None) -> bool:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        BOOK.waits[me] = wait = Wait(self, timed=end is not None)
        BOOK.changed.notify_all()  # who looks for deadlocks wants to know
        try:
            while True:
                if wait.broken:  # first of all: a broken wait ends so even if the lock is free
                    raise DeadlockBroken(f"{me.name} gave up waiting for lock {self.name}")
                if self not in BOOK.holders:
                    return True
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                BOOK.changed.wait(left)
        finally:
            del BOOK.waits[me]

    def release(self) -> None:
        """Give the lock back.

        Raises:
            RuntimeError: If the calling thread does not hold it.
        """
        me = threading.current_thread()
        with BOOK.changed:
            holder = BOOK.holders.get(self)
            if holder is not me:
                held = "nobody" if holder is None else holder.name
                raise RuntimeError(f"lock {self.name} is held by {held}, not by {me.name}")
            del BOOK.holders[self]
            BOOK.changed.notify_all()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"TracedLock({self.name!r})"
