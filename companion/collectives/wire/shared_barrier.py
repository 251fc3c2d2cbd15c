"""A barrier in shared memory: every rank counts its arrivals where the others can read them.

    arrive:  own count ← own count + 1
    wait:    until every other rank's count has reached ours

Counts only grow, so nothing is ever reset and a rank that runs ahead by one barrier does no harm.
They are 64 bits wide: at one barrier per nanosecond they last 292 years.

Source: a centralised barrier with one word per process, after Mellor-Crummey & Scott 1991,
ACM TOCS 9(1), §3. Difference: everybody reads everybody's word, which for the few ranks of one
host is quicker than a tree, and needs no atomic addition, which Python does not have.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

import os
import platform
import time
from collections.abc import Sequence

import psutil

from companion.collectives.wire.peers import PeerLost

__all__ = ["LINE_BYTES", "SharedBarrier", "check_memory_order"]

# One rank's words lie on cache lines of their own: two, as the hardware fetches lines in pairs.
LINE_BYTES = 128
_LINE = LINE_BYTES // 8
_GONE = -1  # in place of a count: this rank will not come any more
_BLAMED = 1  # the word beside the count: whom it had lost, plus one

# Waiting gets cheaper for the others the longer it lasts. Spinning is the quickest where every rank
# has a core of its own; where there is none, it keeps a peer from running, so it gives way soon.
_SPINS = 100
_YIELDS = 1000
_PAUSE_S = (2e-5, 5e-4)  # the first and the longest sleep
_LIVENESS_S = 0.02  # how often a waiting rank looks whether its peers still live


class SharedBarrier:
    """One rank's view of the barrier.

    Args:
        words: The ranks' words, as 64-bit integers; ``LINE_BYTES`` for each rank.
        rank: This rank's number.
        processes: The ranks' processes, in rank order.
        labels: The ranks' names in messages.
        timeout_s: How long a wait may last.
    """

    def __init__(
        self,
        words: memoryview,
        rank: int,
        processes: Sequence[psutil.Process],
        labels: Sequence[str],
        *,
        timeout_s: float,
    ) -> None:
        self._words = words
        self._own = rank * _LINE
        self._others = [(other, other * _LINE) for other in range(len(labels)) if other != rank]
        self._processes = processes
        self._labels = labels
        self._timeout_s = timeout_s
        self._count = words[self._own]

    def wait(self) -> None:
        """Return when every rank has come.

        Whatever a rank wrote to shared memory before its call, every other rank can read after it.

        Raises:
            PeerLost: If a rank has died, has given up, or does not come in time.
        """
        # CPython runs these statements in the order in which they stand, and x86 keeps that order
        # as the other cores see it: stores become visible in program order, and no load
        # overtakes an older load ("total store order"; Intel SDM vol. 3A §8.2, AMD APM vol. 2
        # §7.2). So who sees the count sees the data written before. An aligned word of 8 bytes is
        # written and read in one piece. Machines without that promise are refused
        # (check_memory_order): they would need a fence here, which Python cannot issue.
        words = self._words
        self._count = count = self._count + 1
        if not count:
            self._refuse()
        words[self._own] = count
        for other, line in self._others:
            if words[line] < count:
                self._wait_for(other, line, count)

    def give_up(self, lost: int | None = None) -> None:
        """Tell the others that this rank will not come again, and which rank it has lost.

        Said once: a second call does nothing.
        """
        if self._count == _GONE:
            return
        self._words[self._own + _BLAMED] = 0 if lost is None else lost + 1
        self._words[self._own] = self._count = _GONE

    def _wait_for(self, other: int, line: int, count: int) -> None:
        words = self._words
        for _ in range(_SPINS):
            if words[line] >= count:
                return
        for _ in range(_YIELDS):
            os.sched_yield()
            if words[line] >= count:
                return
        start = looked = time.monotonic()
        pause_s, longest_s = _PAUSE_S
        while words[line] < count:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
            now = time.monotonic()
            if now - looked > _LIVENESS_S:
                looked = now
                self._check_peers(count)
                if now - start > self._timeout_s:
                    self._lose(other, f"it did not come within {self._timeout_s:g} s")

    def _check_peers(self, count: int) -> None:
        """Look at all peers, not only the awaited one, so that the error names who is the cause."""
        for other, line in self._others:
            if self._words[line] < count and not _is_alive(self._processes[other]):
                self._lose(other, f"its process {self._processes[other].pid} has ended")
        for other, line in self._others:
            if self._words[line] == _GONE:
                blamed = self._words[line + _BLAMED] - 1
                reason = f"it had lost {self._labels[blamed]}" if blamed >= 0 else "its call failed"
                self._lose(other, f"{reason} and gave up", blamed if blamed >= 0 else other)

    def _refuse(self) -> None:
        self._count = _GONE
        raise PeerLost("an earlier call on this group lost a rank or failed: make a new group")

    def _lose(self, other: int, reason: str, cause: int | None = None) -> None:
        self.give_up(other if cause is None else cause)
        own = self._labels[self._own // _LINE]
        raise PeerLost(
            f"{own} of {len(self._labels)} lost {self._labels[other]} while waiting for it in "
            f"shared memory: {reason}"
        )


def check_memory_order() -> None:
    """Refuse a machine on which the barrier would not order what the ranks write and read.

    Raises:
        RuntimeError: If this is not an x86 machine.
    """
    machine = platform.machine()
    if machine.lower() not in ("x86_64", "amd64", "i686", "i386"):
        raise RuntimeError(
            "shared_memory_all_reduce needs the memory order of x86 (total store order), "
            f"got {machine}: use ring_all_reduce"
        )


def _is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs: a killed one stays as a zombie until its parent asks."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
