"""The ranks of a group as one of them sees the others: send, receive, and notice who is gone.

Every algorithm of this chapter talks to its peers through this one object, so that what a dead
peer means, and which device a group can send from, is written down once.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.distributed import P2POp, ProcessGroup, Work

__all__ = ["PeerLost", "Peers", "Transfer"]

# Any number will do that a user's own isend and irecv (tag 0) do not use.
_TAG = 0x5EED


class _Part(NamedTuple):
    """One direction of a transfer."""

    kind: str
    tensor: Tensor
    peer: int


class PeerLost(RuntimeError):
    """A rank died, left, or did not answer within the group's timeout."""


class Transfer:
    """Sends and receives under way. ``wait()`` returns when all have ended."""

    def __init__(self, peers: "Peers", works: Sequence[tuple[Work, list[_Part]]]) -> None:
        self._peers = peers
        self._works = works

    def wait(self) -> None:
        """Wait for the end.

        Raises:
            PeerLost: If a peer is gone or too late.
        """
        for work, parts in self._works:
            try:
                work.wait()
            except RuntimeError as error:
                raise self._peers.lost(parts, error) from error
        self._works = ()


class Peers:
    """The ranks of a group, numbered 0 … P−1, seen from one of them.

    Args:
        group: An initialised group; None is the default group.
        members: Group ranks to keep, in their new order; None keeps all.

    Raises:
        ValueError: If this rank is not one of them.

    Attributes:
        rank: This rank's number.
        size: P.
        group: The process group.
    """

    def __init__(
        self, group: ProcessGroup | None = None, *, members: Sequence[int] | None = None
    ) -> None:
        self.group = _joined(group)
        self.members = list(range(self.group.size()) if members is None else members)
        if self.group.rank() not in self.members:
            raise ValueError(f"rank {self.group.rank()} is not among the ranks {self.members}")
        self.rank = self.members.index(self.group.rank())
        self.size = len(self.members)

    def subset(self, members: Sequence[int]) -> "Peers":
        """Some of these ranks, renumbered in the given order; no new process group is made."""
        return Peers(self.group, members=[self.members[member] for member in members])

    @property
    def wire_device(self) -> torch.device:
        """The device whose memory the group sends from: the CPU wherever gloo is there."""
        return self.device_for(torch.device("cpu"))

    def device_for(self, device: torch.device) -> torch.device:
        """Where a tensor of ``device`` has to lie in order to be sent."""
        backends = _backends(self.group)
        # gloo lists CUDA among its devices, but moves only CPU memory from peer to peer.
        if backends.get(device.type, "gloo") != "gloo":
            return device
        if "gloo" in backends.values() or device.type in backends:
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())

    def exchange(self, sent: Tensor, to: int, received: Tensor, source: int) -> Transfer:
        """Start to send one tensor to a peer and to receive another one from a peer.

        Both are contiguous and lie on the wire's device. Empty ones are skipped; the peer knows
        the sizes too and skips them as well.
        """
        return self._start([_Part("receive", received, source), _Part("send", sent, to)])

    def send(self, sent: Tensor, to: int) -> Transfer:
        """Start to send."""
        return self._start([_Part("send", sent, to)])

    def receive(self, received: Tensor, source: int) -> Transfer:
        """Start to receive."""
        return self._start([_Part("receive", received, source)])

    def label(self, rank: int) -> str:
        """A rank's name in messages: its number among these and, if that is another, globally."""
        global_rank = distributed.get_global_rank(self.group, self.members[rank])
        return f"rank {rank}" if rank == global_rank else f"rank {rank} (global rank {global_rank})"

    def lost(self, parts: list[_Part], error: Exception) -> PeerLost:
        """The error to raise when a transfer failed."""
        verbs = {"send": "sending to", "receive": "waiting for"}
        who = " or ".join(f"{self.label(p.peer)} while {verbs[p.kind]} it" for p in parts)
        own = f"{self.label(self.rank)} of {self.size}"
        return PeerLost(f"{own} lost {who}: {_short(str(error).strip() or repr(error))}")

    def _start(self, parts: list[_Part]) -> Transfer:
        # As bytes, because no backend sends every dtype.
        parts = [_Part(k, t.view(torch.uint8), peer) for k, t, peer in parts if t.numel()]
        # NCCL needs a send and a receive that wait for each other to start in one batch.
        if parts and parts[0].tensor.device.type != "cpu":
            return Transfer(self, self._started_batch(parts))
        return Transfer(self, [(self._started(part), [part]) for part in parts])

    def _started(self, part: _Part) -> Work:
        start = self.group.send if part.kind == "send" else self.group.recv
        try:
            return start([part.tensor], self.members[part.peer], _TAG)
        except RuntimeError as error:
            raise self.lost([part], error) from error

    def _started_batch(self, parts: list[_Part]) -> list[tuple[Work, list[_Part]]]:
        calls = {"send": distributed.isend, "receive": distributed.irecv}
        batch = [
            P2POp(calls[p.kind], p.tensor, group=self.group, group_peer=self.members[p.peer])
            for p in parts
        ]
        try:
            return [(work, parts) for work in distributed.batch_isend_irecv(batch)]
        except RuntimeError as error:
            raise self.lost(parts, error) from error


def _joined(group: ProcessGroup | None) -> ProcessGroup:
    group = distributed.group.WORLD if group is None else group
    if group is None:
        raise ValueError("expected an initialised process group, got none: call launch or torchrun")
    if isinstance(group, int) and group == distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"this rank (process {os.getpid()}) is not in the group")
    if not isinstance(group, ProcessGroup):
        raise TypeError(f"group: expected a process group, got {type(group).__name__}")
    return group


def _backends(group: ProcessGroup) -> dict[str, str]:
    """The backend of each kind of device, as in {"cpu": "gloo", "cuda": "nccl"}."""
    pairs = distributed.get_backend_config(group).split(",")
    return dict(pair.split(":") for pair in pairs)


def _short(reason: str) -> str:
    """The first line of gloo's message, without the source file that it begins with."""
    return reason.splitlines()[0].split("] ", 1)[-1][:160]
