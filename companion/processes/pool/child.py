"""The program of a worker process: receive a task, run it, send back what came of it.

The pool starts this file by its path, so that nothing is imported but the standard library and
what the tasks need: by its name it would import ``companion.processes``, and PyTorch with it.

A task arrives as one message, pickle((fn, args)). Two messages answer: STARTED once the task is
unpickled, then pickle((ok, start_s, end_s, pickle(result or exception))). The inner pickle is
checked here, because a message that cannot be read would leave the pool without an answer.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

__all__ = ["READY", "RUN_NAME", "STARTED", "serve"]

READY, STARTED = b"ready", b"started"
RUN_NAME = "companion worker"


def serve(connection: Connection, worker: int) -> None:
    """Run tasks until the pool hangs up or its process ends."""
    # Ctrl-C reaches every process of a terminal; what then happens to workers, the pool decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        connection.send_bytes(READY)
        while True:
            connection.send_bytes(_answer(connection, connection.recv_bytes(), worker))
    except (EOFError, OSError):  # the pool hung up
        return


def _answer(connection: Connection, request: bytes, worker: int) -> bytes:
    start_s = time.monotonic()
    try:
        fn, args = pickle.loads(request)
    except Exception as error:
        connection.send_bytes(STARTED)
        refusal = TypeError(
            "the worker process cannot read the task: a function must stand in a module that can "
            f"be imported, not in a notebook cell or at a prompt ({type(error).__name__}: {error})"
        )
        return _message(False, refusal, start_s, time.monotonic())
    connection.send_bytes(STARTED)
    start_s = time.monotonic()
    ok, value = _run(fn, args, worker)
    return _message(ok, value, start_s, time.monotonic())


def _run(fn: Callable[..., Any], args: tuple[Any, ...], worker: int) -> tuple[bool, Any]:
    """Whether it succeeded, and the result or the exception with this side's traceback as a note.

    SystemExit is let through: a task that calls ``sys.exit`` ends its worker, as it says.
    """
    try:
        return True, fn(*args)
    except Exception as error:
        here = error.__traceback__.tb_next if error.__traceback__ else None
        text = "".join(traceback.format_exception(type(error), error, here)).rstrip()
        note = f"raised in worker {worker} (process {os.getpid()}):\n{text}"
        return False, _portable(error, note)


def _portable(error: Exception, note: str) -> Exception:
    """The exception, if it survives pickling; else a RuntimeError that quotes it."""
    error.add_note(note)
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        copy = RuntimeError(f"{type(error).__qualname__}: {error} (which cannot be pickled)")
        copy.add_note(note)
        return copy


def _message(ok: bool, value: Any, start_s: float, end_s: float) -> bytes:
    try:
        payload = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        refusal = TypeError(
            f"the task ran, but its result, a {type(value).__qualname__}, cannot be pickled and "
            f"sent back ({type(error).__name__}: {error})"
        )
        ok, payload = False, pickle.dumps(refusal)
    return pickle.dumps((ok, start_s, end_s, payload), pickle.HIGHEST_PROTOCOL)


def _end_with_parent() -> None:
    """Leave at once when the pool's process is gone, even in the middle of a task."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


if __name__ == RUN_NAME:
    serve(connection, worker)  # given by whoever runs this file
