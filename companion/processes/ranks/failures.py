"""What a launch raises when one of its ranks does not return.

Chapter: course/10_processes.ipynb.
"""

import signal

__all__ = ["LaunchTimeout", "RankFailed"]


class RankFailed(RuntimeError):
    """A rank of a launch did not return: it raised, exited, or was killed.

    Where the rank raised an exception that can be sent to another process, that exception is the
    ``__cause__`` of this one.

    Args:
        message: What to print: the rank, what became of it and of the others, its traceback.
        rank: The rank at the root of the failure.
        exit_code: What it exited with: -9 if signal 9 ended it; None if it was still running.
        traceback: Text of its traceback, or of the stack it was last seen with; may be empty.

    Attributes:
        rank: As given.
        exit_code: As given.
        traceback: As given.
    """

    def __init__(
        self, message: str, *, rank: int, exit_code: int | None = None, traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.rank, self.exit_code, self.traceback = rank, exit_code, traceback

    def __reduce__(self) -> tuple:
        """Keyword-only arguments travel as state, so that a launch within a launch can fail."""
        return _rebuilt, (type(self), str(self), self.rank, self.exit_code, self.traceback)


class LaunchTimeout(RankFailed):
    """A rank of a launch was still running when its time was up."""


def ending(exit_code: int) -> str:
    """What an exit code says, in words.

    Example:
        >>> ending(-9), ending(3)
        ('was killed by SIGKILL', 'exited with code 3')
    """
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def _rebuilt(
    kind: type[RankFailed], message: str, rank: int, exit_code: int | None, traceback: str
) -> RankFailed:
    return kind(message, rank=rank, exit_code=exit_code, traceback=traceback)
