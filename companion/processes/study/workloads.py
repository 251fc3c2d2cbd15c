"""Kinds of work, for which the interpreter's lock matters differently.

They stand in a module so that a spawned process can import them.
Chapter: course/10_processes.ipynb.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["compute_and_wait", "count_in_python", "matmul", "wait"]


def count_in_python(n: int) -> int:
    """Count to ``n`` in plain Python: the lock is held all the time.

    Example:
        >>> count_in_python(1000)
        1000
    """
    count = 0
    while count < n:
        count += 1
    return count


# CPython from 3.11 on specialises a function after some calls, and this one then takes two thirds
# of its time. Every process shall start from there, or new workers would look slow.
for _ in range(20):
    count_in_python(1)


def matmul(size: int, repeats: int) -> None:
    """Products of two square matrices, on one core: PyTorch lets go of the lock while it computes.

    Args:
        size: Rows and columns, in float32.
        repeats: Products.
    """
    import torch  # a worker that only counts shall not wait for it

    with _one_thread.held():
        factor = torch.full((size, size), 1 / size)
        product = torch.empty_like(factor)
        for _ in range(repeats):
            torch.mm(factor, factor, out=product)


def wait(seconds: float) -> None:
    """Do nothing, as one does for a disk or a network: nothing is held."""
    time.sleep(seconds)


def compute_and_wait(python_s: float, wait_s: float) -> None:
    """What a rank does in a step: Python that prepares the work of a GPU, then a wait for it.

    Args:
        python_s: Processor time of this thread in plain Python, which holds the lock. It is longer
            by the clock when somebody else has the lock or the core.
        wait_s: Pause behind it, in which nothing is held.

    Example:
        >>> begun = time.thread_time()
        >>> compute_and_wait(0.01, 0.0)
        >>> time.thread_time() - begun >= 0.01
        True
    """
    end_s = time.thread_time() + python_s
    while time.thread_time() < end_s:
        pass
    time.sleep(wait_s)


class _OneThread:
    """PyTorch's operations run on one thread each, for as long as somebody wants it.

    The setting belongs partly to the calling thread and partly to the process. So everybody sets
    it, and all put back what the first one found: the second one finds 1 already.
    """

    def __init__(self) -> None:
        self.lock, self.users, self.found = threading.Lock(), 0, 0

    @contextmanager
    def held(self) -> Iterator[None]:
        import torch

        with self.lock:
            if self.users == 0:
                self.found = torch.get_num_threads()
            self.users += 1
            torch.set_num_threads(1)
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                torch.set_num_threads(self.found)


_one_thread = _OneThread()
