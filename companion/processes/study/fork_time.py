"""What a fork costs a parent that has filled some memory.

A fork copies the table of pages, which has 8 bytes for each page:

    table = 8 · size / page

Chapter: course/10_processes.ipynb.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from companion.checks import check_count, typed

__all__ = ["ForkRow", "fork_times"]


class ForkRow(NamedTuple):
    """One parent.

    Fields:
        size_bytes: Memory that it had filled, besides that of a bare interpreter.
        table_bytes: Its tables of pages, with what is reserved for splitting large pages.
        median_s: Time of the call of fork, in the parent.
    """

    size_bytes: int
    table_bytes: int
    median_s: float


@typed
def fork_times(
    sizes_bytes: Sequence[int], *, huge_pages: bool = False, repeats: int = 7
) -> list[ForkRow]:
    """Time a fork for each size of the parent.

    It happens in a fresh small process, one size after another. The child ends at once.

    Args:
        sizes_bytes: Each at least 0.
        huge_pages: Ask the system for pages of 2 MiB, which it may have or not. Otherwise they
            are forbidden.
        repeats: Forks for each size, after one that is not counted.

    Returns:
        One row for each size.

    Raises:
        TypeError, ValueError: An argument is out of range.
        NotImplementedError: The system is not Linux.

    Example:
        >>> small, large = fork_times([0, 2**24])
        >>> 2**14 <= large.table_bytes - small.table_bytes <= 2**16  # 8 bytes for each of 4096
        True
    """
    if not Path("/proc/self/status").exists():
        raise NotImplementedError("expected Linux with /proc/<pid>/status, which is not here")
    sizes = list(sizes_bytes)
    for size in sizes:
        check_count("sizes_bytes", size, least=0)
    check_count("repeats", repeats)
    program = Path(__file__).with_name("fork_program.py")
    # -P: the folder of the program does not become a place to import from.
    numbers = [str(number) for number in (int(huge_pages), repeats, *sizes)]
    command = [sys.executable, "-P", str(program), *numbers]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [
        ForkRow(size, table, statistics.median(seconds))
        for size, (table, seconds) in zip(sizes, json.loads(run.stdout), strict=True)
    ]
