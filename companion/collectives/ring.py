"""Ring all-reduce: what each rank sends hardly depends on how many ranks there are.

    reduce-scatter, steps 1 … P−1, then all-gather, steps P … 2P−2;
    in step t rank r sends chunk r−t to the right and receives chunk r−1−t from the left

Every rank sends 2(P−1)/P of the tensor's bytes. The sum of chunk c starts at rank c+1 and goes
round to rank c:  x_c + (x_{c−1} + (… + (x_{c+2} + x_{c+1}))), rounded at every +. Another chunk
has another order, but each has one owner who completes it and everybody copies the result: so all
ranks hold the same bits.

Source: Patarasuk & Yuan 2009, JPDC 69(2).
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from functools import partial

from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.all_reduce import all_reduce_with
from companion.collectives.ring_pipeline import pipelined_ring_
from companion.collectives.wire.calls import Handle

__all__ = ["CHUNK_BYTES", "ring_all_reduce"]

# Measured with gloo on one host, 2 and 4 ranks, 8 and 64 MiB: below 1 MiB the messages' own cost
# shows (most with 4 ranks on two cores), above 2 MiB too few segments overlap.
CHUNK_BYTES = 2 * 2**20


def ring_all_reduce(
    tensor: Tensor,
    *,
    op: str = "sum",
    group: ProcessGroup | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    async_op: bool = False,
) -> Tensor | Handle:
    """Reduce a tensor over all ranks, in place, around a ring.

    Time 2(P−1)α + 2(P−1)/P·Sβ + (P−1)/P·Sγ, plus one exchange of headers.

    Source: Patarasuk & Yuan 2009, JPDC 69(2).

    Args:
        tensor: Any size, 0 included, and any strides.
        op: "sum", "mean", "max", "min" or "prod".
        group: None is the default group.
        chunk_bytes: Pieces in which a chunk travels, so that adding one overlaps with receiving
            the next, >= 1. The same on all ranks. Takes S/P bytes of buffers.
        async_op: Return a handle at once; the reduction goes on beside the caller.

    Returns:
        The tensor itself, or a handle with ``wait()`` and ``is_completed()``.

    Raises:
        CollectiveMismatch: On every rank, if the ranks' calls differ.
        PeerLost: If a rank dies or does not answer within the group's timeout. The tensor's
            content is then undefined.
        TypeError: If the op has no meaning for the dtype; another kind of argument.
        ValueError: If a setting is out of its range.
    """
    if not isinstance(async_op, bool):
        raise TypeError(f"async_op: expected True or False, got {async_op!r}")
    refusal = None
    if not isinstance(chunk_bytes, int) or chunk_bytes < 1:
        refusal = ValueError(f"chunk_bytes must be an integer >= 1, got {chunk_bytes!r}")
    return all_reduce_with(
        partial(pipelined_ring_, chunk_bytes=chunk_bytes),
        tensor,
        name="ring",
        op=op,
        group=group,
        async_op=async_op,
        options=f"chunk_bytes={chunk_bytes}",
        refusal=refusal,
    )
