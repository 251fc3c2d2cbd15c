"""Several hosts: rings inside each host, and thin rings between them.

    1. reduce-scatter around the ranks of a host:      fast links, S
    2. all-reduce around the ranks of one local rank:  slow links, S / ranks_per_host
    3. all-gather around the ranks of a host:          fast links, S

Each rank talks over the slow network about its own chunk only, and a ring between H hosts has
2(H−1) slow steps, where the flat ring has 2(P−1).

Source: Ueno & Yokota 2019, CCGrid ("Exhaustive study of hierarchical AllReduce patterns").
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import os
from functools import partial

from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.all_reduce import all_reduce_with
from companion.collectives.ring import CHUNK_BYTES
from companion.collectives.ring_pipeline import (
    pipelined_all_gather_,
    pipelined_reduce_scatter_,
    pipelined_ring_,
)
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import Op

__all__ = ["hierarchical_all_reduce"]


def hierarchical_all_reduce(
    tensor: Tensor,
    *,
    op: str = "sum",
    group: ProcessGroup | None = None,
    ranks_per_host: int | None = None,
) -> Tensor:
    """Reduce a tensor over all ranks, in place, first within hosts, then between them.

    Source: Ueno & Yokota 2019, CCGrid.

    Args:
        tensor: Any size, 0 included, and any strides.
        op: "sum", "mean", "max", "min" or "prod".
        group: None is the default group. Ranks of one host follow one another in it.
        ranks_per_host: A divisor of P; None is ``LOCAL_WORLD_SIZE`` as torchrun sets it, or P,
            one host, where that is not set.

    Returns:
        The tensor itself.

    Raises:
        CollectiveMismatch: On every rank, if the ranks' calls differ.
        PeerLost: If a rank dies or does not answer within the group's timeout.
        TypeError: If the op has no meaning for the dtype.
        ValueError: If ``ranks_per_host`` does not divide P.
    """
    size = Peers(group).size
    if ranks_per_host is None:
        ranks_per_host = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    refusal = None
    if not isinstance(ranks_per_host, int) or ranks_per_host < 1 or size % ranks_per_host:
        refusal = ValueError(f"ranks_per_host must divide the {size} ranks, got {ranks_per_host!r}")
    return all_reduce_with(
        partial(_hierarchical_, ranks_per_host=ranks_per_host),
        tensor,
        name="hierarchical",
        op=op,
        group=group,
        options=f"ranks_per_host={ranks_per_host}",
        refusal=refusal,
    )


def _hierarchical_(flat: Tensor, op: Op, peers: Peers, *, ranks_per_host: int) -> None:
    local_rank = peers.rank % ranks_per_host
    first = peers.rank - local_rank
    host = peers.subset(range(first, first + ranks_per_host))
    across = peers.subset(range(local_rank, peers.size, ranks_per_host))
    chunks = list(flat.tensor_split(ranks_per_host))
    pipelined_reduce_scatter_(chunks, op.adding, host, chunk_bytes=CHUNK_BYTES)
    pipelined_ring_(chunks[local_rank], op.adding, across, chunk_bytes=CHUNK_BYTES)
    op.finish_(chunks[local_rank], ranks=peers.size)  # the mean's one division, by all P
    pipelined_all_gather_(chunks, host, chunk_bytes=CHUNK_BYTES)
