"""A fork takes along the locks, but not the threads that would open them.

Chapter: course/10_processes.ipynb.
"""

import os
import threading
from dataclasses import dataclass

from companion.checks import check_number, typed
from companion.processes.alone.run import run_alone

__all__ = ["ForkOutcome", "fork_after_threads"]


@dataclass(frozen=True)
class ForkOutcome:
    """What happened to a lock that existed when the process was forked.

    Fields:
        threads_in_parent, threads_in_child: Right before and right after the fork.
        parent_acquired: The parent got the lock, after the thread that held it had let go.
        child_acquired: The child got its copy of the lock.
        waited_s: How long the child was given.
    """

    threads_in_parent: int
    threads_in_child: int
    parent_acquired: bool
    child_acquired: bool
    waited_s: float

    def __str__(self) -> str:
        child = f"still waiting after {self.waited_s:g} s, and killed"
        return (
            f"threads: {self.threads_in_parent} in the parent, "
            f"{self.threads_in_child} in the child\n"
            f"parent:  {'got the lock' if self.parent_acquired else 'did not get the lock'}\n"
            f"child:   {'got the lock' if self.child_acquired else child}"
        )


@typed
def fork_after_threads(timeout_s: float = 1.0, *, held: bool = True) -> ForkOutcome:
    """Fork while another thread holds a lock; then the thread lets go, and both ask for the lock.

    It happens in a fresh small process, and the child is killed when its time is over.

    Args:
        timeout_s: What the child is given to get the lock.
        held: Without it the thread only runs, and holds nothing.

    Raises:
        TypeError, ValueError: ``timeout_s`` is not positive.
        NotImplementedError: The system cannot fork.

    Example:
        >>> print(fork_after_threads(timeout_s=0.1))
        threads: 2 in the parent, 1 in the child
        parent:  got the lock
        child:   still waiting after 0.1 s, and killed
    """
    if not hasattr(os, "fork"):
        raise NotImplementedError("expected a system that can fork, and this one cannot")
    check_number("timeout_s", timeout_s, above=0, most=threading.TIMEOUT_MAX)
    happened = run_alone("fork", timeout_s, int(held), timeout_s=30 + 2 * timeout_s)
    return ForkOutcome(**happened, waited_s=timeout_s)
