"""Ctrl-C held back while processes run that must be ended first.

            SIGINT ─┐
    start ranks ────┴──▸ end ranks ──▸ KeyboardInterrupt

An exception that a signal handler raises can come between any two instructions, also between the
birth of a process and the line that notes it. So the handler only takes a note.

Chapter: course/10_processes.ipynb.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

__all__ = ["interrupts_held", "interrupts_masked"]


@contextmanager
def interrupts_held() -> Iterator[list[int]]:
    """Let no KeyboardInterrupt in; one that came meanwhile is raised at the end.

    In a thread that is not the main one, where none is ever raised, this does nothing.

    Returns:
        The interrupts so far: empty until one comes.

    Example:
        >>> with interrupts_held() as came:
        ...     print(came)
        []
    """
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield came
        return
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def interrupts_masked() -> Iterator[None]:
    """Processes started here are born deaf to SIGINT, and stay so until they unblock it.

    Ctrl-C reaches every process of a terminal; one that is still importing would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # or the first start would do it, and unmask SIGINT
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
