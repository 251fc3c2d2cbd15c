"""The ring with its chunks cut into segments, so that adding overlaps with sending and receiving.

Step by step, a rank waits for a whole chunk, adds it while the link is idle, then sends it on.
Cut into n segments, piece s of step t+1 can leave as soon as piece s of step t has been added,
while pieces s+1, s+2 … are still arriving: n transfers are under way at any time.

Source: the ring is that of Patarasuk & Yuan 2009, JPDC 69(2); cutting its chunks into segments is
common practice, in gloo and NCCL too.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from companion.collectives.wire.chunks import segments
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import Op

__all__ = ["pipelined_all_gather_", "pipelined_reduce_scatter_", "pipelined_ring_"]


class _Hop(NamedTuple):
    """One piece to send and one to receive at the same time."""

    leaving: Tensor
    arriving: Tensor
    is_added: bool
    is_last_sum: bool


def pipelined_ring_(flat: Tensor, op: Op, peers: Peers, *, chunk_bytes: int) -> None:
    """All-reduce a flat tensor in place: 2(P−1) steps, as one stream of segments."""
    _reduce(list(flat.tensor_split(peers.size)), range(2 * peers.size - 2), op, peers, chunk_bytes)


def pipelined_reduce_scatter_(
    chunks: list[Tensor], op: Op, peers: Peers, *, chunk_bytes: int
) -> None:
    """The first P−1 steps: chunk r of rank r ends up reduced, the others hold partial results."""
    _reduce(chunks, range(peers.size - 1), op, peers, chunk_bytes)


def pipelined_all_gather_(chunks: list[Tensor], peers: Peers, *, chunk_bytes: int) -> None:
    """The last P−1 steps: every chunk r is taken from rank r."""
    steps = range(peers.size - 1, 2 * peers.size - 2)
    _reduce(chunks, steps, Op("sum"), peers, chunk_bytes)


def _reduce(
    chunks: list[Tensor], steps: Iterable[int], op: Op, peers: Peers, chunk_bytes: int
) -> None:
    """Run some steps of the ring, with as many transfers under way as a chunk has segments."""
    pieces = segments(chunks, segment_bytes=chunk_bytes)
    depth = len(pieces[0])
    right, left = (peers.rank + 1) % peers.size, (peers.rank - 1) % peers.size
    buffers = [torch.empty_like(pieces[0][0]) for _ in range(depth)]
    under_way: deque = deque()

    def finish_oldest() -> None:
        transfer, hop, received = under_way.popleft()
        transfer.wait()
        if hop.is_added:
            op.combine_(hop.arriving, received)
        if hop.is_last_sum:
            op.finish_(hop.arriving, ranks=peers.size)

    for count, hop in enumerate(_hops(pieces, steps, peers)):
        if len(under_way) == depth:
            finish_oldest()  # this is the piece that leaves now
        buffer = buffers[count % depth][: hop.arriving.numel()]
        received = buffer if hop.is_added else hop.arriving
        under_way.append((peers.exchange(hop.leaving, right, received, left), hop, received))
    while under_way:
        finish_oldest()


def _hops(pieces: list[list[Tensor]], steps: Iterable[int], peers: Peers) -> Iterator[_Hop]:
    """What is sent and received, in order. What leaves in step t arrived in step t−1."""
    rank, size = peers.rank, peers.size
    for step in steps:
        leaving, arriving = pieces[(rank - 1 - step) % size], pieces[(rank - 2 - step) % size]
        for sent, received in zip(leaving, arriving, strict=True):
            yield _Hop(sent, received, step < size - 1, step == size - 2)
