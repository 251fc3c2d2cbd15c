"""The memory that the ranks of one host share for their reductions, and how they get hold of it.

    P lines of counts │ 2 × P headers │ 2 × P slots

Rank 0 makes it at a group's first call and hands it out; then its name, if it had one, is given
up at once, so that it ends with the last process that maps it, whatever ends that process.
There are two slots per rank, used in turn: while some ranks still read one, others may fill the
next. Slots have a fixed size, larger tensors go through them in pieces.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

import contextlib
import os
import pickle
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.agreement import (
    HEADER_BYTES,
    CollectiveMismatch,
    Header,
    _check_equal,
    _check_participants,
    bruck_all_gather,
)
from companion.collectives.wire.peers import PeerLost, Peers
from companion.collectives.wire.shared_barrier import LINE_BYTES, SharedBarrier, check_memory_order
from companion.processes.shared_array import SharedArray

__all__ = ["SLOT_BYTES", "Workspace", "make_workspace", "workspace_of"]

# Smaller pieces cost more barriers, larger ones leave the cache: measured on two cores.
SLOT_BYTES = 2**20
_PAGE_BYTES = 4096
_LETTER_BYTES = 4096


class _Letter(NamedTuple):
    """What a rank tells the others before there is shared memory."""

    host: str
    boot: str
    pid: int
    handle: bytes


class Workspace:
    """One rank's view of the shared memory of a group.

    Args:
        memory: The shared bytes, ``workspace_bytes(P)`` of them.
        rank: This rank's number.
        labels: The ranks' names in messages.
        barrier: Over the ranks of the group.

    Attributes:
        rank: This rank's number.
        ranks: P.
        barrier: Over the ranks of the group.
    """

    def __init__(
        self, memory: Tensor, rank: int, labels: Sequence[str], barrier: SharedBarrier
    ) -> None:
        self.rank, self.ranks, self.barrier = rank, len(labels), barrier
        self._labels, ranks = labels, len(labels)
        _, headers, slots = memory.split(_layout(ranks))
        self._slots = slots.view(2, ranks, SLOT_BYTES)
        self._headers = [
            [memoryview(header.numpy()) for header in turn]
            for turn in headers[: 2 * ranks * HEADER_BYTES].view(2, ranks, HEADER_BYTES)
        ]
        self._typed: dict[torch.dtype, list[list[Tensor]]] = {}
        self._turn = self._call = 0
        self._header: bytes | None = None

    def post(self, header: Header, refusal: Exception | None = None) -> None:
        """Begin a call: show the others what this rank is about to do.

        A rank that cannot take part raises its refusal after the others have heard of it.
        """
        if refusal is not None:
            header = replace(header, problem=f"{type(refusal).__name__}: {refusal}")
        self._call = 1 - self._call
        self._header = header.encoded()
        self._headers[self._call][self.rank][:] = self._header
        if refusal is not None:
            self._turn = 1 - self._turn  # as the others', who are about to fill their slots
            with contextlib.suppress(CollectiveMismatch):
                self.wait()
            raise refusal

    def wait(self) -> None:
        """Wait for all ranks; at a call's first barrier also compare what they have posted.

        Raises:
            CollectiveMismatch: On every rank, if their headers differ.
            PeerLost: If a rank has died, has given up, or does not come in time.
        """
        self.barrier.wait()
        if self._header is None:
            return
        own, self._header = self._header, None
        lines = [line.tobytes() for line in self._headers[self._call]]
        if lines.count(own) < self.ranks:
            headers = [Header.decoded(line) for line in lines]
            _check_participants(headers, self)
            _check_equal(headers, lines, self)

    def next_slots(self, dtype: torch.dtype) -> list[Tensor]:
        """Every rank's slot for the next piece, 1-D. They are free again two barriers later."""
        self._turn = 1 - self._turn
        if dtype not in self._typed:
            self._typed[dtype] = [list(turn) for turn in self._slots.view(dtype)]
        return self._typed[dtype][self._turn]

    def label(self, rank: int) -> str:
        """A rank's name in messages."""
        return self._labels[rank]


_WORKSPACES: "WeakKeyDictionary[ProcessGroup, Workspace]" = WeakKeyDictionary()


def workspace_of(group: ProcessGroup) -> Workspace | None:
    """The workspace of a group, if its ranks have made one."""
    return _WORKSPACES.get(group)


def make_workspace(peers: Peers) -> Workspace:
    """Make the workspace of a group; all its ranks call this together.

    Raises:
        PeerLost: If a rank dies or does not answer.
        RuntimeError: On every rank, if one of them cannot map the memory, or if its machine does
            not keep stores in order.
        ValueError: On every rank, if they are on different hosts.
    """
    workspace = _WORKSPACES[peers.group] = _shared_by(peers)
    return workspace


def _shared_by(peers: Peers) -> Workspace:
    made: list[SharedArray] = []

    def offer() -> _Letter:
        check_memory_order()
        if peers.rank == 0:
            made.append(SharedArray((sum(_layout(peers.size)),), torch.uint8))
        return _Letter(*_host(), os.getpid(), pickle.dumps(made))

    letters = _together(offer, peers)
    _check_one_host(letters, peers)  # elsewhere the handle may name something else
    processes = [_process(rank, letter.pid, peers) for rank, letter in enumerate(letters)]

    def attach() -> None:
        made[:] = made or pickle.loads(letters[0].handle)

    _together(attach, peers)
    memory = made[0].tensor
    made[0].close()  # the mapping stays as long as the tensor; the way to it is not needed again
    labels = [peers.label(rank) for rank in range(peers.size)]
    words = memoryview(memory[: peers.size * LINE_BYTES].numpy()).cast("q")
    barrier = SharedBarrier(words, peers.rank, processes, labels, timeout_s=_timeout_s(peers))
    return Workspace(memory, peers.rank, labels, barrier)


def _process(rank: int, pid: int, peers: Peers) -> psutil.Process:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess as error:
        own, lost = peers.label(peers.rank), peers.label(rank)
        raise PeerLost(f"{own} of {peers.size} lost {lost}: its process {pid} has ended") from error


def _together(step: Callable[[], object], peers: Peers) -> list:
    """Take a step on every rank; all answers, or an error on every rank if one could not."""
    answer, error = None, None
    try:
        answer = step()
    except (OSError, RuntimeError, ValueError) as caught:
        error = caught
    own = pickle.dumps((answer, error and f"{type(error).__name__}: {error}"))
    block = torch.frombuffer(bytearray(own.ljust(_LETTER_BYTES, b"\0")), dtype=torch.uint8)
    rows = bruck_all_gather(block, peers).cpu().numpy()
    answers = [pickle.loads(row.tobytes()) for row in rows]
    for rank, (_, problem) in enumerate(answers):
        if problem:
            raise RuntimeError(f"{peers.label(rank)} cannot share memory: {problem}") from error
    return [answer for answer, _ in answers]


def _host() -> tuple[str, str]:
    """This host's name, and what tells it from another one of that name."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return platform.node(), boot_id.read_text().strip() if boot_id.exists() else ""


def _check_one_host(letters: Sequence[_Letter], peers: Peers) -> None:
    hosts: dict[tuple[str, str], list[str]] = {}
    for rank, letter in enumerate(letters):
        hosts.setdefault((letter.host, letter.boot), []).append(peers.label(rank))
    if len(hosts) > 1:
        where = ", ".join(f"{' and '.join(ranks)} on {host}" for (host, _), ranks in hosts.items())
        raise ValueError(f"shared memory needs the ranks of one host, got {where}")


def _timeout_s(peers: Peers) -> float:
    """The group's timeout, which torch keeps with its back end."""
    backend = peers.group._get_backend(peers.wire_device)
    return backend.options._timeout.total_seconds()


def _layout(ranks: int) -> list[int]:
    """Bytes of the three parts, each a whole number of pages."""
    sizes = (ranks * LINE_BYTES, 2 * ranks * HEADER_BYTES, 2 * ranks * SLOT_BYTES)
    return [-(-size // _PAGE_BYTES) * _PAGE_BYTES for size in sizes]
