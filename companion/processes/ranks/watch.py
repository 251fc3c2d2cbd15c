"""One rank as its parent sees it: what it has said, whether it lives, how it is ended.

Chapter: course/10_processes.ipynb.
"""

import contextlib
import os
import pickle
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from companion.processes.ranks.process import (
    Failed,
    Place,
    Ready,
    Returned,
    Started,
    run_rank,
    stack_path,
)
from companion.processes.ranks.stacks import read_stack

__all__ = ["Rank", "ask_for_stacks", "receive"]

_LOOK_S = 0.1
_STACK_LIMIT_S = 0.5


class Rank:
    """A started rank.

    Args:
        place: Its place in the launch.
        process: Its process, started.
        pipe: Our end of the pipe to it.

    Attributes:
        place: As given.
        started: It answers ``ask_for_stacks``.
        ready: The group is complete, the function runs.
        returned: The function has returned, and ``value`` is its result.
        failed: What it sent when it raised, or None.
        died_s: When its process was found dead without a word, on the monotonic clock; or None.
        exit_code: Its exit code if it died without a word.
    """

    def __init__(self, place: Place, process: BaseProcess, pipe: Connection) -> None:
        self.place, self._process, self._pipe = place, process, pipe
        self.started = self.ready = self.returned = False
        self.value: Any = None
        self.failed: Failed | None = None
        self.died_s: float | None = None
        self.exit_code: int | None = None

    @property
    def running(self) -> bool:
        """It has neither returned nor failed nor died."""
        return not self.returned and not self.lost

    @property
    def lost(self) -> bool:
        """It has failed or died."""
        return self.failed is not None or self.died_s is not None

    @property
    def stack(self) -> str:
        """The stack that it last wrote; "" if none."""
        ours = str(Path(run_rank.__code__.co_filename))
        return read_stack(stack_path(self.place.folder, self.place.rank), below=ours)

    def waitables(self) -> tuple[Connection, int]:
        """What becomes readable when the rank says something or dies."""
        return self._pipe, self._process.sentinel

    def look(self) -> None:
        """Take in what the rank has said, and whether it has died."""
        # Asked for first: whatever a dead process said is in the pipe by now.
        exit_code = self._process.exitcode
        try:
            while self.running and self._pipe.poll():
                self._hear(self._pipe.recv())
        except (EOFError, OSError):  # its end is closed; that it died is seen at the next look
            pass
        if self.running and exit_code is not None:
            self.died_s, self.exit_code = time.monotonic(), exit_code

    def ask_for_stack(self) -> None:
        """Have it write its stack, if it can by now."""
        if self.started and self.running and self._process.exitcode is None:
            os.kill(self._process.pid, signal.SIGUSR1)

    def dismiss(self) -> None:
        """Let a rank that has returned leave the group and end."""
        with contextlib.suppress(OSError):
            self._pipe.send_bytes(b"all have returned")

    def join(self, within_s: float) -> None:
        """Wait for its process to end."""
        self._process.join(max(within_s, 0.0))

    def end(self) -> None:
        """End its process, if need be, and all processes that it has started."""
        # It leads a process group of its own, unless it is so young that it has no children.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def _hear(self, message: Started | Ready | Returned | Failed) -> None:
        match message:
            case Started():
                self.started = True
            case Ready():
                self.ready = True
            case Returned():
                self._take(message.pickled)
            case Failed():
                self.failed = message

    def _take(self, pickled: bytes) -> None:
        try:
            self.value = pickle.loads(pickled)
            self.returned = True
        except Exception as error:
            problem = f"its result cannot be unpickled here: {type(error).__name__}: {error}"
            self.failed = Failed(time.monotonic(), problem, "", 0, None)


def receive(ranks: Sequence[Rank], within_s: float) -> None:
    """Wait until a rank says something or dies, a tenth of a second at most; take it in."""
    waitables = [one for rank in ranks if rank.running for one in rank.waitables()]
    wait(waitables, min(max(within_s, 0.0), _LOOK_S))
    for rank in ranks:
        # A dead rank's sentinel stays silent while a child of it holds the other end.
        if rank.running:
            rank.look()


def ask_for_stacks(ranks: Sequence[Rank]) -> None:
    """Have the ranks that still run write down where they are, and give them time for it."""
    asked = [rank for rank in ranks if rank.running and rank.started]
    for rank in asked:
        rank.ask_for_stack()
    limit = time.monotonic() + _STACK_LIMIT_S
    while not all(rank.stack for rank in asked) and time.monotonic() < limit:
        time.sleep(0.02)
