"""The ring's two halves, each useful alone: reduce-scatter and all-gather.

    reduce-scatter, step t = 0 … P−2: send chunk r−1−t, receive chunk r−2−t, add it to ours
    all-gather,     step t = 0 … P−2: send chunk r−t,   receive chunk r−1−t, keep it

After step t of the reduce-scatter, rank r's chunk r−2−t is the sum over t+2 ranks; after step
P−2 its chunk r is the sum over all.

Source: Patarasuk & Yuan 2009, JPDC 69(2).
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.agreement import Header, agree_or_refuse
from companion.collectives.all_reduce import check_reducible, flat_copy
from companion.collectives.wire.calls import calls_of
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import Op

__all__ = ["all_gather_", "reduce_scatter_", "ring_all_gather", "ring_reduce_scatter"]


def ring_reduce_scatter(
    tensor: Tensor, *, op: str = "sum", group: ProcessGroup | None = None
) -> Tensor:
    """Reduce a tensor over all ranks and leave each of them one chunk of the result.

    Rank r gets ``torch.tensor_split(flat, P)[r]`` of the reduced tensor. Time (P−1)α + (P−1)/P·Sβ
    + (P−1)/P·Sγ; takes S bytes of working memory, because the input stays as it was.

    Source: Patarasuk & Yuan 2009, JPDC 69(2).

    Args:
        tensor: Any size, 0 included, and any strides.
        op: "sum", "mean", "max", "min" or "prod".
        group: None is the default group.

    Returns:
        The chunk, 1-D, in new memory.

    Raises:
        CollectiveMismatch: On every rank, if the ranks' calls differ.
        PeerLost: If a rank dies or does not answer within the group's timeout.
        TypeError: If the op has no meaning for the dtype.
    """
    peers = Peers(group)

    def call() -> Tensor:
        refusal = check_reducible(tensor, op)
        header = Header.of(tensor, "reduce_scatter", "ring", op=str(op))
        agree_or_refuse(header, peers.group, refusal)
        chunks = flat_copy(tensor, peers.device_for(tensor.device)).tensor_split(peers.size)
        reduce_scatter_(list(chunks), Op(op), peers)
        return chunks[peers.rank].to(tensor.device, copy=True)

    return calls_of(peers.group).run(call, tensor)


def ring_all_gather(chunk: Tensor, *, group: ProcessGroup | None = None) -> Tensor:
    """Give every rank the chunks of all, one after the other along dim 0.

    Time (P−1)α + (P−1)/P·Sβ with S the size of the result.

    Source: Patarasuk & Yuan 2009, JPDC 69(2).

    Args:
        chunk: Of any dtype; at least 1-D. Ranks may differ in the length of dim 0 only.
        group: None is the default group.

    Returns:
        The chunks in rank order, in new memory.

    Raises:
        CollectiveMismatch: On every rank, if dtypes, numbers of dimensions or other lengths differ.
        PeerLost: If a rank dies or does not answer within the group's timeout.
        TypeError: If the chunk is no dense tensor.
        ValueError: If the chunk has no dimension.
    """
    peers = Peers(group)

    def call() -> Tensor:
        refusal = _check_chunk(chunk)
        headers = agree_or_refuse(Header.of(chunk, "all_gather", "ring"), peers.group, refusal)
        lengths = [header.shape[0] for header in headers]
        shape, device = chunk.shape[1:], peers.device_for(chunk.device)
        gathered = torch.empty(sum(lengths), *shape, dtype=chunk.dtype, device=device)
        parts = list(gathered.split(lengths))
        parts[peers.rank].copy_(chunk.detach())
        all_gather_([part.view(-1) for part in parts], peers)
        return gathered.to(chunk.device)

    return calls_of(peers.group).run(call, chunk)


def reduce_scatter_(chunks: list[Tensor], op: Op, peers: Peers) -> None:
    """Reduce chunk r to rank r, in place; the other chunks are left with partial results."""
    rank, size = peers.rank, peers.size
    left, right = (rank - 1) % size, (rank + 1) % size
    for step in range(size - 1):
        sent, own = chunks[(rank - 1 - step) % size], chunks[(rank - 2 - step) % size]
        received = torch.empty_like(own)
        peers.exchange(sent, right, received, left).wait()
        op.combine_(own, received)
    op.finish_(chunks[rank], ranks=size)


def all_gather_(chunks: list[Tensor], peers: Peers) -> None:
    """Take every chunk r from rank r, in place."""
    rank, size = peers.rank, peers.size
    left, right = (rank - 1) % size, (rank + 1) % size
    for step in range(size - 1):
        sent, received = chunks[(rank - step) % size], chunks[(rank - 1 - step) % size]
        peers.exchange(sent, right, received, left).wait()


def _check_chunk(chunk: Tensor) -> Exception | None:
    if not isinstance(chunk, Tensor) or chunk.layout != torch.strided or chunk.is_meta:
        return TypeError(f"expected a dense tensor, got {getattr(chunk, 'layout', type(chunk))}")
    if chunk.dim() == 0:
        return ValueError("expected a chunk with at least one dimension, got a scalar")
    return None
