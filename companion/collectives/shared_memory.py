"""All-reduce among the ranks of one host: no messages, everybody reads everybody's memory.

    piece by piece:  copy our piece in │ reduce our slice over all ranks │ copy the result out

In step t a rank copies in piece t, reduces its slice of piece t−1 and copies out piece t−2; one
barrier ends the step. A small tensor needs a single barrier: after it every rank reads all slots
and reduces them itself.

The order of a sum is x_0 + x_1 + … + x_{P−1}, rounded to the dtype at every +, whatever the size:
so all ranks hold the same bits.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from dataclasses import replace
from itertools import pairwise

from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.agreement import CollectiveMismatch, Header, agree_or_refuse
from companion.collectives.all_reduce import check_reducible, flat_copy, is_plain
from companion.collectives.wire.calls import calls_of
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import _COMBINE, Op
from companion.collectives.wire.shared_workspace import (
    SLOT_BYTES,
    Workspace,
    make_workspace,
    workspace_of,
)

__all__ = ["DIRECT_BYTES", "shared_memory_all_reduce"]

# Up to here reading P slots costs less than a second barrier.
DIRECT_BYTES = 2**17
_CACHE_LINE_BYTES = 64


def shared_memory_all_reduce(
    tensor: Tensor, *, op: str = "sum", group: ProcessGroup | None = None
) -> Tensor:
    """Reduce a tensor over all ranks of one host, in place, through memory that they share.

    A group's first call makes the memory, 2·P MiB. From then on the ranks' headers meet there, so a
    rank that calls another collective instead is noticed only when the group's timeout is up.

    Args:
        tensor: In host memory; any size, 0 included, and any strides.
        op: "sum", "mean", "max", "min" or "prod".
        group: None is the default group.

    Returns:
        The tensor itself.

    Raises:
        CollectiveMismatch: On every rank, if the ranks' calls differ.
        PeerLost: If a rank dies, gives up, or does not come within the group's timeout. The
            tensor's content is then undefined, and the group can share memory no more.
        TypeError: If the op has no meaning for the dtype, or the tensor is on another device.
        ValueError: If the ranks are on different hosts.
        RuntimeError: If the ranks cannot share memory, or this is not an x86 machine.
    """
    peers = Peers(group)

    def call() -> Tensor:
        refusal = check_reducible(tensor, op, in_place=True) or _check_device(tensor)
        header = Header.of(tensor, "all_reduce", "shared_memory", op=str(op))
        workspace = workspace_of(peers.group)
        if workspace is None:
            header = agree_or_refuse(header, peers.group, refusal)[peers.rank]
            if peers.size == 1:
                return tensor
            workspace = make_workspace(peers)
        else:
            header = replace(header, call=calls_of(peers.group).next_number())
        workspace.post(header, refusal)
        try:
            _reduce_in_place(tensor, Op(op), workspace)
        except CollectiveMismatch:
            raise  # everybody has this error and is in step: the next call may succeed
        except BaseException:
            workspace.barrier.give_up()
            raise
        return tensor

    return calls_of(peers.group).run(call, tensor)


def _check_device(tensor: Tensor) -> Exception | None:
    if tensor.device.type != "cpu":
        return TypeError(f"expected a tensor in host memory, got one on {tensor.device}")
    return None


def _reduce_in_place(tensor: Tensor, op: Op, workspace: Workspace) -> None:
    plain = is_plain(tensor)
    flat = tensor.detach().view(-1) if plain else flat_copy(tensor, tensor.device)
    algorithm = _reduce_directly_ if flat.nbytes <= DIRECT_BYTES else _reduce_in_pieces_
    algorithm(flat, op, workspace)
    if not plain:
        tensor.detach().copy_(flat.view(tensor.shape))


def _reduce_directly_(flat: Tensor, op: Op, workspace: Workspace) -> None:
    """Every rank reads all slots: one barrier."""
    slots = [slot[: len(flat)] for slot in workspace.next_slots(flat.dtype)]
    slots[workspace.rank].copy_(flat)
    workspace.wait()
    _combine(slots, op, flat)
    op.finish_(flat, ranks=workspace.ranks)


def _reduce_in_pieces_(flat: Tensor, op: Op, workspace: Workspace) -> None:
    """Every rank reduces its slice of each piece: one barrier per piece, and one more."""
    length = _piece_length(flat)
    pieces = flat.split(length)
    slices = _slices(length, flat.element_size(), workspace.ranks)
    slots: list[list[Tensor]] = []
    for step in range(len(pieces) + 2):
        if step < len(pieces):
            turn = workspace.next_slots(flat.dtype)
            slots.append([slot[: len(pieces[step])] for slot in turn])
            _copy_in(pieces[step], slots[step], slices, workspace.rank)
        if 0 <= step - 1 < len(pieces):
            _reduce_slice_(pieces[step - 1], slots[step - 1], slices, op, workspace.rank)
        if step - 2 >= 0:
            _copy_out(pieces[step - 2], slots[step - 2], slices, workspace.rank)
        if step <= len(pieces):
            workspace.wait()


def _piece_length(flat: Tensor) -> int:
    """Elements of a piece: the fewest pieces that fit into slots, all as long but the last."""
    count = -(-flat.nbytes // SLOT_BYTES)
    return -(-len(flat) // count)


def _slices(length: int, element_bytes: int, ranks: int) -> list[slice]:
    """Each rank's slice of every piece; they begin at cache lines.

    The last piece, which may be shorter, keeps these bounds too: while its copying in fills the
    rest of a slot, others still read the result of an earlier piece in the slot owner's slice.
    """
    line = max(1, _CACHE_LINE_BYTES // element_bytes)
    step = -(-length // (ranks * line)) * line
    return [slice(*pair) for pair in pairwise(rank * step for rank in range(ranks + 1))]


def _copy_in(piece: Tensor, slots: list[Tensor], slices: list[slice], rank: int) -> None:
    """What the others reduce; our own slice need not travel."""
    own = slices[rank]
    for part in (slice(0, own.start), slice(own.stop, None)):
        slots[rank][part].copy_(piece[part])


def _reduce_slice_(
    piece: Tensor, slots: list[Tensor], slices: list[slice], op: Op, rank: int
) -> None:
    """The result takes the place in our slot that the copying in has left free."""
    own = slices[rank]
    parts = [slot[own] for slot in slots]
    result, parts[rank] = parts[rank], piece[own]
    _combine(parts, op, result)
    op.finish_(result, ranks=len(slots))
    piece[own].copy_(result)


def _copy_out(piece: Tensor, slots: list[Tensor], slices: list[slice], rank: int) -> None:
    for other, part in enumerate(slices):
        if other != rank:
            piece[part].copy_(slots[other][part])


def _combine(parts: list[Tensor], op: Op, out: Tensor) -> None:
    """out ← x_0 ∘ x_1 ∘ … in rank order."""
    function = _COMBINE[op.name]
    function(parts[0], parts[1], out=out)
    for part in parts[2:]:
        function(out, part, out=out)
