"""What it costs to give data to another process: as a copy, or as a handle.

Chapter: course/10_processes.ipynb.
"""

import contextlib
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Literal

import numpy as np

from companion.checks import check_choice, check_count
from companion.processes.shared_array import SharedArray

__all__ = ["handover_s"]

FIRST, LAST = 7, 9  # what the receiver must find


def handover_s(
    size_bytes: int, *, by: Literal["pickle", "shared memory"], repeats: int = 5
) -> float:
    """Seconds until another process can use data that lie in this one, and has said so.

    By pickle, the bytes are copied into a message, through a pipe, and out of it. By shared memory
    the message is a ``SharedArray``'s handle, which the receiver opens. Both ways it reads the
    first and the last byte, and answers. The process is started before, and the first time is not
    counted.

    Args:
        size_bytes: At least 1.
        by: The way.
        repeats: The fastest counts.

    Raises:
        TypeError, ValueError: An argument does not fit.
        RuntimeError: The other process ended, or has received something else.

    Example:
        >>> 0 < handover_s(1000, by="pickle", repeats=2) < 1
        True
    """
    check_count("size_bytes", size_bytes)
    check_count("repeats", repeats)
    check_choice("by", by, ("pickle", "shared memory"))
    if by == "pickle":
        numbers = np.zeros(size_bytes, np.uint8)
        numbers[0], numbers[-1] = FIRST, LAST
        return _fastest_s(numbers, repeats)
    import torch

    with SharedArray(size_bytes, torch.uint8) as shared:
        shared.tensor[0], shared.tensor[-1] = FIRST, LAST
        return _fastest_s(shared, repeats)


def _fastest_s(data: np.ndarray | SharedArray, repeats: int) -> float:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_receive, args=(theirs,))
    process.start()
    theirs.close()
    try:
        return min([_hand_over_s(data, ours) for _ in range(repeats + 1)][1:])
    except (EOFError, ConnectionError):
        raise RuntimeError("expected the other process to answer, but it has ended") from None
    finally:
        ours.close()
        process.join(5.0)
        process.kill()
        process.join()
        process.close()


def _hand_over_s(data: np.ndarray | SharedArray, line: Connection) -> float:
    begun = time.perf_counter()
    line.send(data)
    answer = line.recv()
    seconds = time.perf_counter() - begun
    # A single byte is both the first and the last; the last was written last.
    if answer not in ((FIRST, LAST), (LAST, LAST)):
        raise RuntimeError(f"expected the bytes {FIRST} and {LAST} to arrive, got {answer}")
    return seconds


def _receive(line: Connection) -> None:
    """The other process: take, look, answer, until the line is closed."""
    with line, contextlib.suppress(EOFError, ConnectionError):
        while True:
            data = line.recv()
            numbers = data.tensor if isinstance(data, SharedArray) else data
            line.send((int(numbers[0]), int(numbers[-1])))
            if isinstance(data, SharedArray):
                data.close()
