"""Two threads that need the same two locks: a deadlock, if they take them in opposite order.

Chapter: course/10_processes.ipynb.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from companion.checks import check_choice
from companion.processes.traced_lock import BOOK, DeadlockBroken, TracedLock

__all__ = ["two_locks"]

_PATIENCE_S = 20.0


@contextmanager
def two_locks(*, order: Literal["opposite", "same"]) -> Iterator[dict[str, str]]:
    """Start two threads that take locks A and B; leaving the block breaks their deadlock.

    Args:
        order: "opposite": one takes A and then B, the other B and then A, and neither asks for
            its second lock before both have their first. The block begins when both wait.
            "same": both take A first, so one goes after the other.

    Yields:
        Name of a thread → how it ended, "finished" or "broken", once it has.

    Raises:
        ValueError: If there is no such order.

    Example:
        >>> with two_locks(order="opposite") as ends:
        ...     print(ends)
        {}
        >>> sorted(ends.items())
        [('two-locks-1', 'broken'), ('two-locks-2', 'broken')]
    """
    check_choice("order", order, ("opposite", "same"))
    a, b, ends = TracedLock("A"), TracedLock("B"), {}
    both_have_one = threading.Barrier(2)
    meet = both_have_one.wait if order == "opposite" else _go_on
    second = _b_then_a if order == "opposite" else _a_then_b
    pair = [
        threading.Thread(target=_run, args=(take, a, b, meet, ends), name=name, daemon=True)
        for name, take in (("two-locks-1", _a_then_b), ("two-locks-2", second))
    ]
    try:
        for thread in pair:
            thread.start()
        if order == "opposite":
            _await_waiting(pair)
        yield ends
    finally:
        with BOOK.changed:
            stuck = [BOOK.waits[t] for t in pair if order == "opposite" and t in BOOK.waits]
        BOOK.break_waits(stuck)
        for thread in pair:
            thread.join(_PATIENCE_S)


def _a_then_b(a: TracedLock, b: TracedLock, meet: Callable) -> None:
    with a:
        meet()
        with b:
            pass


def _b_then_a(a: TracedLock, b: TracedLock, meet: Callable) -> None:
    with b:
        meet()
        with a:
            pass


def _go_on() -> None:
    """Meet nobody."""


def _run(
    take: Callable, a: TracedLock, b: TracedLock, meet: Callable, ends: dict[str, str]
) -> None:
    try:
        take(a, b, meet)
        end = "finished"
    except DeadlockBroken:
        end = "broken"
    ends[threading.current_thread().name] = end


def _await_waiting(pair: list[threading.Thread]) -> None:
    with BOOK.changed:
        if not BOOK.changed.wait_for(lambda: all(t in BOOK.waits for t in pair), _PATIENCE_S):
            raise TimeoutError(f"the two threads did not meet within {_PATIENCE_S:.0f} s")
