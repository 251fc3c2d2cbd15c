"""How much memory a process uses, when some of it is shared.

    RSS = Σ pages · size        PSS = Σ size / (processes that map the page)
    USS = pages of its own      shared = RSS − USS

Source: Linux, Documentation/filesystems/proc.rst, on /proc/<pid>/smaps.
Chapter: course/10_processes.ipynb.
"""

from pathlib import Path
from typing import NamedTuple

from companion.checks import check_count

__all__ = ["MemoryUse", "memory_pss"]

KIB = 1024  # the file says "kB" and means this


class MemoryUse(NamedTuple):
    """Physical memory of one process.

    Fields:
        rss_bytes: Resident set: all pages that it can reach and that are in memory.
        pss_bytes: Proportional set: each page divided by the number of processes that share it.
            Over all processes these add up to what is in use.
        uss_bytes: Unique set: the pages that only it maps, and that are freed when it ends.
        shared_bytes: The other pages.
    """

    rss_bytes: int
    pss_bytes: int
    uss_bytes: int
    shared_bytes: int


def memory_pss(pid: int | None = None) -> MemoryUse:
    """The memory that a process uses, as Linux counts it.

    Args:
        pid: Of the process; this one if None.

    Raises:
        TypeError, ValueError: The number is none of a process.
        ProcessLookupError: There is no such process, or it has ended.
        PermissionError: It belongs to somebody else.
        NotImplementedError: The system is not Linux.

    Example:
        >>> use = memory_pss()
        >>> use.uss_bytes <= use.pss_bytes <= use.rss_bytes
        True
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise NotImplementedError("expected Linux with /proc/<pid>/smaps_rollup, which is not here")
    if pid is not None:
        check_count("pid", pid)
    process = "self" if pid is None else pid
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"expected a running process, got number {pid}") from None
    # After the line with the range of addresses: "Pss:    329 kB".
    lines = (line.split() for line in text.splitlines()[1:])
    size_bytes = {name.rstrip(":"): int(number) * KIB for name, number, _ in lines}
    return MemoryUse(
        size_bytes["Rss"],
        size_bytes["Pss"],
        size_bytes["Private_Clean"] + size_bytes["Private_Dirty"],
        size_bytes["Shared_Clean"] + size_bytes["Shared_Dirty"],
    )
