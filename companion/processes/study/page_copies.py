"""Copy-on-write, watched: what parent and child are charged for memory from before the fork.

With a fraction w overwritten, the rest is shared by two, so each is charged

    w · size + (1 − w) · size / 2

Chapter: course/10_processes.ipynb.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from companion.checks import check_count, check_number, typed
from companion.processes.alone.run import run_alone

__all__ = ["CopyRow", "copy_on_write"]


class CopyRow(NamedTuple):
    """What the two processes are charged once the child has written.

    Fields:
        written: The fraction that the child has overwritten.
        parent_bytes, child_bytes: Proportional set size (PSS) of that memory in each.
    """

    written: float
    parent_bytes: int
    child_bytes: int

    @property
    def parent_mib(self) -> float:
        """In MiB."""
        return self.parent_bytes / 2**20

    @property
    def child_mib(self) -> float:
        """In MiB."""
        return self.child_bytes / 2**20


@typed
def copy_on_write(size_bytes: int, *, writes: Sequence[float] = (0, 0.25, 0.5, 1)) -> list[CopyRow]:
    """Fill memory, fork, let the child overwrite a part of it, and ask who is charged how much.

    It happens in a fresh small process, which forks a new child for each fraction. Only the memory
    filled is counted, not the interpreter around it.

    Args:
        size_bytes: Of the memory; rounded up to whole pages.
        writes: The fractions, each in [0, 1].

    Returns:
        One row for each fraction.

    Raises:
        TypeError, ValueError: A fraction or the size is out of range.
        NotImplementedError: The system is not Linux.

    Example:
        >>> for row in copy_on_write(2**20, writes=(0, 1)):
        ...     print(row.written, f"{row.parent_mib:.1f} {row.child_mib:.1f}")
        0 0.5 0.5
        1 1.0 1.0
    """
    if not Path("/proc/self/smaps").exists():
        raise NotImplementedError("expected Linux with /proc/<pid>/smaps, which is not here")
    check_count("size_bytes", size_bytes)
    writes = list(writes)
    for part in writes:
        check_number("writes", part, least=0, most=1)
    charged = run_alone("copies", size_bytes, *map(float, writes))
    return [CopyRow(part, *both) for part, both in zip(writes, charged, strict=True)]
