"""Every thread of a process: those that Python knows and those that only the system knows.

Native libraries, such as PyTorch's, start threads of their own which ``threading`` never sees.

Source: Linux man-pages, proc_pid_stat(5) and proc_pid_comm(5); Python documentation, module
threading. Chapter: course/10_processes.ipynb.
"""

import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import psutil

from companion.checks import check_count

__all__ = ["ThreadInfo", "threads"]

_STATES = {
    "R": "running",  # the system does not tell a thread that runs from one that could
    "S": "sleeping",
    "D": "disk",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "I": "idle",
}
_STATE_FIELD, _UTIME_FIELD, _STIME_FIELD = 0, 11, 12  # counted from behind the name


class ThreadInfo(NamedTuple):
    """One thread. What nobody can know of it is None."""

    name: str
    """Python's name of it, else the system's (at most 15 characters)."""
    ident: int | None
    """Python's number; None if Python does not know the thread."""
    native_id: int
    """The system's number."""
    daemon: bool | None
    alive: bool
    state: str
    """"running" (or ready to), "sleeping", "disk", "stopped", "traced", "zombie", "idle" or
    "unknown". An ended thread is in no list."""
    cpu_s: float
    """Processor time so far, in s; the system counts in ticks, 0.01 s as a rule."""
    frame: str | None
    """Innermost Python function, as "file.py:12 in fn"; None in another process."""


class _Native(NamedTuple):
    name: str
    state: str
    cpu_s: float


def threads(pid: int | None = None) -> list[ThreadInfo]:
    """All threads of a process, the main one first, then those that Python knows, by system number.

    Linux: the system's list, completed by Python's for this process. Elsewhere, where the system
    numbers of the two lists cannot be matched: Python's list for this process, the system's for
    another, with state "unknown".

    Args:
        pid: Number of the process; None is this one.

    Raises:
        TypeError, ValueError: If the pid is not a positive int.
        ProcessLookupError: If there is no such process.
        PermissionError: If the system does not let us look (macOS).

    Example:
        >>> me = threads()[0]
        >>> me.name, me.alive, me.state
        ('MainThread', True, 'running')
    """
    if pid is not None:
        check_count("pid", pid)
    own = pid is None or pid == os.getpid()
    native = _native_threads(os.getpid() if pid is None else pid, own=own)
    found = _python_threads(native) if own else []
    known = {thread.native_id for thread in found}
    found += [
        ThreadInfo(n.name, None, number, None, n.state != "zombie", n.state, n.cpu_s, None)
        for number, n in native.items()
        if number not in known
    ]
    main = threading.main_thread().native_id if own else pid
    return sorted(found, key=lambda t: (t.native_id != main, t.ident is None, t.native_id))


def _python_threads(native: dict[int, _Native]) -> list[ThreadInfo]:
    frames = sys._current_frames()
    return [
        ThreadInfo(
            t.name, t.ident, t.native_id, t.daemon, True, seen.state, seen.cpu_s,
            _where(frames.get(t.ident)),
        )
        for t in threading.enumerate()
        # Not there yet, or not any more: the two lists are not made at the same moment.
        if (seen := native.get(t.native_id)) is not None
    ]  # fmt: skip


def _native_threads(pid: int, *, own: bool) -> dict[int, _Native]:
    tasks = Path(f"/proc/{pid}/task")
    if not sys.platform.startswith("linux"):
        return _without_proc(pid, own=own)
    try:
        numbers = sorted(int(entry.name) for entry in tasks.iterdir())
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"there is no process with pid {pid}") from error
    looks = {number: _look(tasks / str(number)) for number in numbers}
    return {number: look for number, look in looks.items() if look is not None}


def _look(task: Path) -> _Native | None:
    try:
        line = (task / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None  # ended since it was listed
    # "12 (name) S ...": a name may hold spaces and parentheses, so the last ")" ends it.
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    state = fields[_STATE_FIELD]
    if state in "Xx":
        return None  # ending right now
    ticks = int(fields[_UTIME_FIELD]) + int(fields[_STIME_FIELD])
    name = head.partition("(")[2]
    return _Native(name, _STATES.get(state, "unknown"), ticks / os.sysconf("SC_CLK_TCK"))


def _without_proc(pid: int, *, own: bool) -> dict[int, _Native]:
    if own:
        known = [t.native_id for t in threading.enumerate() if t.native_id is not None]
        return {number: _Native("", "unknown", float("nan")) for number in known}
    try:
        listed = psutil.Process(pid).threads()
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"there is no process with pid {pid}") from error
    except psutil.AccessDenied as error:
        raise PermissionError(f"the system does not show the threads of process {pid}") from error
    return {t.id: _Native("", "unknown", t.user_time + t.system_time) for t in listed}


def _where(frame: FrameType | None) -> str | None:
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back  # the thread that asks is in this file: say who called
    if frame is None:
        return None
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
