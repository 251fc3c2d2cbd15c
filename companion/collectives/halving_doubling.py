"""Halving and doubling: as few bytes as the ring, as few steps as the tree, if P is a power of 2.

    reduce-scatter: at distance 1, 2, 4 … swap halves with rank r xor distance, keep and add one
    all-gather:     the same swaps backwards, each doubling what a rank holds

Where P is no power of 2, the surplus ranks first hand their whole tensor to a partner and get the
result from it at the end.

Source: Thakur, Rabenseifner & Gropp 2005, IJHPCA 19(1) (Rabenseifner's algorithm; the
surplus is folded in here from the upper ranks, there from every second of the lower ones).
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.all_reduce import all_reduce_with
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import Op

__all__ = ["halving_doubling_all_reduce"]


def halving_doubling_all_reduce(
    tensor: Tensor, *, op: str = "sum", group: ProcessGroup | None = None
) -> Tensor:
    """Reduce a tensor over all ranks, in place, by recursive halving and doubling.

    Time 2 log₂P·α + 2(P−1)/P·Sβ + (P−1)/P·Sγ for P = 2^k; any other P folds its surplus ranks
    into the 2^k first, which adds 2(α + Sβ) + Sγ.

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
    return all_reduce_with(halve_and_double_, tensor, name="halving_doubling", op=op, group=group)


def halve_and_double_(flat: Tensor, op: Op, peers: Peers) -> None:
    rank, size = peers.rank, peers.size
    core = 2 ** (size.bit_length() - 1)  # the largest power of 2 in P
    if rank >= core:
        peers.send(flat, rank - core).wait()
        peers.receive(flat, rank - core).wait()
        return
    has_surplus = rank + core < size
    if has_surplus:
        received = torch.empty_like(flat)
        peers.receive(received, rank + core).wait()
        op.combine_(flat, received)
    _all_reduce_power_of_two_(flat, op, peers, core)
    if has_surplus:
        peers.send(flat, rank + core).wait()


def _all_reduce_power_of_two_(flat: Tensor, op: Op, peers: Peers, core: int) -> None:
    distances = [2**k for k in range(core.bit_length() - 1)]
    mine, swaps = flat, []
    for distance in distances:  # halve
        lower, upper = mine.tensor_split(2)
        mine, other = (upper, lower) if peers.rank & distance else (lower, upper)
        partner = peers.rank ^ distance
        received = torch.empty_like(mine)
        peers.exchange(other, partner, received, partner).wait()
        op.combine_(mine, received)
        swaps.append((partner, mine, other))
    op.finish_(mine, ranks=peers.size)
    for partner, mine, other in reversed(swaps):  # double
        peers.exchange(mine, partner, other, partner).wait()
