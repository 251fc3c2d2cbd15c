"""The tree: sums go up a binomial tree to rank 0, the result comes down again.

    up,   step k: rank r with bit k as its lowest one sends to r − 2^k, which adds
    down, step k: the same edges backwards, largest k first

⌈log₂ P⌉ steps each way instead of P−1, but every step moves the whole tensor: the tree wins where
latency counts, the ring where bandwidth does.

Source: Thakur, Rabenseifner & Gropp 2005, IJHPCA 19(1) (binomial trees).
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.all_reduce import all_reduce_with
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import Op

__all__ = ["tree_all_reduce"]


def tree_all_reduce(
    tensor: Tensor, *, op: str = "sum", group: ProcessGroup | None = None
) -> Tensor:
    """Reduce a tensor over all ranks, in place, up and down a binomial tree.

    Time 2⌈log₂ P⌉(α + Sβ) + ⌈log₂ P⌉Sγ. Rank r adds what comes from r+1, r+2, r+4 …, in this order.

    Source: Thakur, Rabenseifner & Gropp 2005, IJHPCA 19(1).

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
    return all_reduce_with(tree_, tensor, name="tree", op=op, group=group)


def tree_(flat: Tensor, op: Op, peers: Peers) -> None:
    rank, size = peers.rank, peers.size
    distances = [2**k for k in range((size - 1).bit_length())]
    received = torch.empty_like(flat) if rank % 2 == 0 else flat  # odd ranks are leaves
    for distance in distances:
        if rank % (2 * distance) == distance:
            peers.send(flat, rank - distance).wait()
            break
        if rank + distance < size:
            peers.receive(received, rank + distance).wait()
            op.combine_(flat, received)
    if rank == 0:
        op.finish_(flat, ranks=size)
    for distance in reversed(distances):
        if rank % (2 * distance) == distance:
            peers.receive(flat, rank - distance).wait()
        elif rank % (2 * distance) == 0 and rank + distance < size:
            peers.send(flat, rank + distance).wait()
