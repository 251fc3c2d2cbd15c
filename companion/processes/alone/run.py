"""Running a small program in an interpreter of its own.

Some experiments fork, and a process that has run PyTorch must not. Their programs stand beside
this file and import nothing but the standard library.

Chapter: course/10_processes.ipynb.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["run_alone"]


def run_alone(program: str, *args: object, timeout_s: float = 60.0) -> Any:
    """What a program that stands beside this file prints, which is JSON.

    Args:
        program: Its file's name, without the ending.
        args: Passed on the command line.
        timeout_s: Then it is killed, with every process that it has started.

    Returns:
        The JSON as Python objects.

    Raises:
        RuntimeError: The program fails; the message ends with what it wrote to its standard error.
        TimeoutError: The time is over.
    """
    path = Path(__file__).with_name(f"{program}.py")
    # -P: the folder of the program does not become a place to import from.
    command = [sys.executable, "-P", str(path), *map(str, args)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of processes that can be killed together
    )
    try:
        printed, complaint = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        message = f"expected {program} to end within {timeout_s:g} s, and it did not"
        raise TimeoutError(message) from None
    finally:
        if process.returncode is None:  # not ended, or not seen to: its number is still its own
            _kill_group(process)
    if process.returncode != 0:
        raise RuntimeError(f"{program} ended with exit code {process.returncode}:\n{complaint}")
    return json.loads(printed)


def _kill_group(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
