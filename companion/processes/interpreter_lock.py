"""Which interpreter this is: with the global lock, or without.

Chapter: course/10_processes.ipynb.
"""

import sys
import sysconfig
from typing import NamedTuple

__all__ = ["FreeThreading", "free_threading"]


class FreeThreading(NamedTuple):
    """What the interpreter says of itself.

    Fields:
        build: It was built so that it can run without the lock (PEP 703).
        gil_enabled: The lock is in use now. A free-threaded build can switch it on: for a setting,
            or for an extension module that needs it.
    """

    build: bool
    gil_enabled: bool

    def describe(self) -> str:
        """Both in one sentence."""
        if not self.build:
            return "a build with the interpreter's lock, which is always on"
        state = "on all the same" if self.gil_enabled else "off"
        return f"a free-threaded build, with the interpreter's lock {state}"


def free_threading() -> FreeThreading:
    """Ask the running interpreter whether it has a lock, and whether it could do without.

    Source: Gross 2023, PEP 703; ``sys._is_gil_enabled`` is there from Python 3.13 on.

    Example:
        >>> build, gil_enabled = free_threading()
        >>> build or gil_enabled  # without the lock: only in a build that can
        True
    """
    build = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    ask = getattr(sys, "_is_gil_enabled", lambda: True)
    return FreeThreading(build, bool(ask()))
