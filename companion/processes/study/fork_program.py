"""Fill memory, fork, and time the call; print the seconds and the size of the table of pages.

A program, run by ``fork_time.py`` in an interpreter of its own: ``fork_program.py HUGE REPEATS
SIZE_BYTES...``, HUGE being 0 or 1. It prints a list of (bytes of the table, [seconds, ...]).
Chapter: course/10_processes.ipynb.
"""

import contextlib
import json
import mmap
import os
import sys
import time

PAGE = mmap.PAGESIZE


def filled(size_bytes: int, huge: bool) -> mmap.mmap | None:
    """Memory with every page written to; None for no bytes."""
    if size_bytes == 0:
        return None
    memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that has only small pages
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    for place in range(0, size_bytes, PAGE):
        memory[place] = 1
    return memory


def table_bytes() -> int:
    """What this process's tables of pages take, as the system counts it."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmPTE:"))


def fork_s() -> float:
    """Seconds that one call of fork takes in the parent; the child ends at once."""
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        os._exit(0)
    seconds = time.perf_counter() - begun
    os.waitpid(child, 0)
    return seconds


def main(huge: bool, repeats: int, sizes: list[int]) -> None:
    """One size after another; the memory of one is given back before the next."""
    rows = []
    for size in sizes:
        memory = filled(size, huge)
        rows.append((table_bytes(), [fork_s() for _ in range(repeats + 1)][1:]))
        if memory is not None:
            memory.close()
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1] == "1", int(sys.argv[2]), [int(text) for text in sys.argv[3:]])
