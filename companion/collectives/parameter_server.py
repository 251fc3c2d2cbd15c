"""The parameter server: everybody sends to rank 0, rank 0 adds and answers everybody.

    rank 0: for each other rank, receive and add; then for each, send

Simple, and the reason for all the others: 2(P−1)S bytes go through one port.

Source: Sergeev & Del Balso 2018, arXiv:1802.05799, compare it with the ring.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.all_reduce import all_reduce_with
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import Op

__all__ = ["parameter_server_all_reduce"]

_SERVER = 0


def parameter_server_all_reduce(
    tensor: Tensor, *, op: str = "sum", group: ProcessGroup | None = None
) -> Tensor:
    """Reduce a tensor over all ranks, in place, at rank 0, which adds in rank order.

    Time 2(P−1)(α + Sβ) + (P−1)Sγ: it grows with P.

    Source: Sergeev & Del Balso 2018, arXiv:1802.05799.

    Args:
        tensor: Any size, 0 included, and any strides.
        op: "sum", "mean", "max", "min" or "prod".
        group: None is the default group.

    Returns:
        The tensor itself.

    Raises:
        CollectiveMismatch: On every rank, if the ranks' calls differ.
        PeerLost: If a rank dies or does not answer within the group's timeout.
        TypeError: If the op has no meaning for the dtype.
    """
    return all_reduce_with(collect_and_answer_, tensor, name="parameter_server", op=op, group=group)


def collect_and_answer_(flat: Tensor, op: Op, peers: Peers) -> None:
    if peers.rank != _SERVER:
        peers.send(flat, _SERVER).wait()
        peers.receive(flat, _SERVER).wait()
        return
    received = torch.empty_like(flat)
    for worker in range(1, peers.size):
        peers.receive(received, worker).wait()
        op.combine_(flat, received)
    op.finish_(flat, ranks=peers.size)
    answers = [peers.send(flat, worker) for worker in range(1, peers.size)]
    for answer in answers:
        answer.wait()
