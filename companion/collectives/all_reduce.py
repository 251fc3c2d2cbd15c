"""What every all-reduce does around its algorithm: agree, lay the tensor out flat, copy back.

    agree on the call  →  flat, contiguous, on the wire's device  →  algorithm  →  back in place

An algorithm is then a loop over steps on a flat tensor, and knows nothing else.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.agreement import Header, agree_or_refuse
from companion.collectives.wire.calls import Handle, calls_of
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import Op

__all__ = ["Algorithm", "all_reduce_with", "check_reducible", "flat_copy", "is_plain"]

Algorithm = Callable[[Tensor, Op, Peers], None]


def all_reduce_with(
    algorithm: Algorithm,
    tensor: Tensor,
    *,
    name: str,
    op: str,
    group: ProcessGroup | None,
    async_op: bool = False,
    options: str = "",
    refusal: Exception | None = None,
) -> Tensor | Handle:
    """Reduce a tensor in place over the ranks of a group, by a given algorithm.

    Args:
        algorithm: Called with the flat tensor, the operation and the peers; reduces in place.
        tensor: Any shape, strides and supported dtype.
        name: The algorithm's name in the header: "ring" …
        op: "sum", "mean", "max", "min" or "prod".
        group: None is the default group.
        async_op: Return a handle at once.
        options: Settings on which the ranks have to agree: "chunk_bytes=1048576".
        refusal: An error of this rank's settings: the others hear of it before it is raised.

    Returns:
        The tensor, or a handle if ``async_op``.
    """
    peers = Peers(group)

    def call() -> Tensor:
        header = Header.of(tensor, "all_reduce", name, op=str(op), options=options)
        agree_or_refuse(header, peers.group, refusal or check_reducible(tensor, op, in_place=True))
        with torch.no_grad():
            _reduce_in_place(algorithm, tensor, Op(op), peers)
        return tensor

    calls = calls_of(peers.group)
    return calls.start(call, tensor) if async_op else calls.run(call, tensor)


def check_reducible(tensor: Tensor, op: str, *, in_place: bool = False) -> Exception | None:
    """The error that this tensor and operation deserve, or None."""
    if not isinstance(tensor, Tensor):
        return TypeError(f"expected a tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_meta:
        return TypeError(f"expected a dense tensor, got {tensor.layout} on {tensor.device}")
    if in_place and any(
        step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
    ):
        return ValueError("expected a tensor to write to, got an expanded one: clone it first")
    try:
        Op(op).check(tensor.dtype)
    except (TypeError, ValueError) as error:
        return error
    return None


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor's memory is its values, in order."""
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def flat_copy(tensor: Tensor, device: torch.device) -> Tensor:
    """The values of a tensor in order, in new memory."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype, device=device)
    flat.view(tensor.shape).copy_(tensor.detach())
    return flat


def _reduce_in_place(algorithm: Algorithm, tensor: Tensor, op: Op, peers: Peers) -> None:
    if peers.size == 1:
        return
    device = peers.device_for(tensor.device)
    if is_plain(tensor) and tensor.device == device:
        algorithm(tensor.detach().view(-1), op, peers)
        return
    flat = flat_copy(tensor, device)
    algorithm(flat, op, peers)
    tensor.detach().copy_(flat.view(tensor.shape))
