"""Where a process is stuck: its Python stack, written by itself when a signal comes.

``faulthandler`` writes from within the signal handler, in C, so a rank that waits inside a
collective or a lock answers too.

Source: Python documentation, module faulthandler, "Dumping the tracebacks on a user signal".
Chapter: course/10_processes.ipynb.
"""

import faulthandler
import linecache
import re
import signal
from pathlib import Path
from typing import IO

__all__ = ["answer_with_stack", "read_stack"]

_CUT = "\n  ...\n"  # in place of the frames beyond the innermost hundred
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)')


def answer_with_stack(path: Path) -> IO[str]:
    """Write all threads' stacks to a file on SIGUSR1 and when a fault ends this process.

    Returns:
        The open file; it must stay open.
    """
    file = path.open("w")
    faulthandler.enable(file, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)
    return file


def read_stack(path: Path, *, below: str) -> str:
    """The main thread's last written stack as a traceback, innermost frame last.

    Args:
        path: What ``answer_with_stack`` writes.
        below: The file (its path's end) whose frames are ours: they and those that called them
            are left out. It tells the main thread too.

    Returns:
        Two lines per frame as in a traceback; "" if nothing was written, or not all of it yet:
        the main thread comes last, and what a busy machine has written so far may be another's.
    """
    text = path.read_text(errors="replace") if path.exists() else ""
    for block in reversed(re.split(r"^.*hread 0x.*$", text, flags=re.M)[1:]):
        frames = _frames(block)
        ours = [i for i, (file, _, _) in enumerate(frames) if file.endswith(below)]
        if ours or _CUT in block:
            return "".join(_lines(*frame) for frame in reversed(frames[: min(ours, default=None)]))
    return ""


def _frames(block: str) -> list[tuple[str, int, str]]:
    return [(m["file"], int(m["line"]), m["name"]) for m in _FRAME.finditer(block)]


def _lines(file: str, line: int, name: str) -> str:
    source = linecache.getline(file, line).strip()
    return f'  File "{file}", line {line}, in {name}\n' + (f"    {source}\n" if source else "")
