"""Many tensors laid end to end in one, because a message costs its start-up time however short.

    flat = [ t_0 | t_1 | … | t_{n−1} ],    tensor i at places starts[i] … starts[i] + numel(t_i)

Chapter: course/11_collectives.ipynb.
"""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

__all__ = ["broadcast_tensors", "check_same_parameters", "dense_gradient", "starts_of"]


def starts_of(tensors: Sequence[Tensor]) -> list[int]:
    """Where each tensor begins when all are laid end to end; the last number is the whole length.

    Example:
        >>> starts_of([torch.zeros(2, 3), torch.zeros(5)])
        [0, 6, 11]
    """
    return list(itertools.accumulate((tensor.numel() for tensor in tensors), initial=0))


def broadcast_tensors(tensors: Iterable[Tensor], *, group: ProcessGroup | None = None) -> None:
    """Overwrite the tensors with those of the group's rank 0, in one message per dtype and device.

    Every value is copied as bytes, so any dtype and any strides arrive as they were.
    """
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    for alike in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        # gloo misreads strided tensors and knows few dtypes; a flat row of bytes it always can.
        distributed.broadcast(flat.view(torch.uint8), group_src=0, group=group)
        for tensor, start in zip(alike, starts_of(alike), strict=False):
            tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))


def check_same_parameters(
    named: Iterable[tuple[str, nn.Parameter]], *, group: ProcessGroup | None = None
) -> None:
    """Make sure that all ranks bring the same parameters: their gradients meet by place alone.

    Raises:
        ValueError: On every rank, naming the first difference.
    """
    own = [
        f"{name} {tuple(p.shape)} {p.dtype}{'' if p.requires_grad else ' frozen'}"
        for name, p in named
    ]
    of_rank: list[list[str]] = [[]] * distributed.get_world_size(group)
    distributed.all_gather_object(of_rank, own, group=group)
    for rank, other in enumerate(of_rank):
        for expected, got in itertools.zip_longest(of_rank[0], other, fillvalue="no parameter"):
            if expected != got:
                raise ValueError(
                    f"expected the same parameters on all ranks, got {got} on rank {rank} "
                    f"where rank 0 has {expected}"
                )


def dense_gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient, which must be there and be dense.

    Raises:
        TypeError: If it is sparse.
    """
    if parameter.grad.layout != torch.strided:
        raise TypeError(
            f"expected a dense gradient for the parameter of shape {tuple(parameter.shape)}, "
            f"got {parameter.grad.layout}; embeddings need sparse=False here"
        )
    return parameter.grad.detach()
