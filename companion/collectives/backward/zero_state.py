"""An optimizer's state in parts and as a whole.

A rank's optimizer knows pieces; its state of a piece is shaped like the piece (Adam's mean and
variance) or is one number (the step). Laid side by side the pieces give the state that the plain
optimizer has of the parameter, so a checkpoint does not remember how many ranks wrote it.

Chapter: course/11_collectives.ipynb.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from companion.collectives.backward.sharded_bucket import Piece, ShardedBucket

__all__ = ["gathered_state", "local_state"]

MASTER = "master"


def gathered_state(
    local: Optimizer,
    buckets: Sequence[ShardedBucket],
    param_groups: Sequence[Mapping[str, Any]],
    parameters: Sequence[nn.Parameter],
    *,
    group: ProcessGroup | None,
) -> dict[str, Any]:
    """The state of all ranks' pieces, put together as the plain optimizer's ``state_dict``."""
    number = {parameter: i for i, parameter in enumerate(parameters)}
    own = [
        (number[piece.parameter], piece.start, piece.stop, _state_of(piece, local, bucket))
        for bucket in buckets
        for piece in bucket.pieces
    ]
    of_rank: list[list] = [[]] * distributed.get_world_size(group)
    distributed.all_gather_object(of_rank, own, group=group)
    state: dict[int, dict[str, Any]] = {}
    for i, start, stop, values in sorted((e for own in of_rank for e in own), key=lambda e: e[:2]):
        for name, value in values.items():
            whole = state.setdefault(i, {})
            if isinstance(value, Tensor) and value.shape == (stop - start,):
                if name not in whole:
                    whole[name] = value.new_empty(parameters[i].shape, device=parameters[i].device)
                whole[name].view(-1)[start:stop] = value
            else:
                whole[name] = value
    groups = [
        {**g, "params": [number[parameter] for parameter in g["params"]]} for g in param_groups
    ]
    return {"state": dict(sorted(state.items())), "param_groups": groups}


def _state_of(piece: Piece, local: Optimizer, bucket: ShardedBucket) -> dict[str, Any]:
    """On the CPU, as it is sent as a pickle."""
    state = dict(local.state.get(piece.weights, {}))
    if bucket.master_bytes:
        state[MASTER] = piece.weights.detach()
    return {name: v.cpu() if isinstance(v, Tensor) else v for name, v in state.items()}


def local_state(
    local: Optimizer,
    pieces: Sequence[Piece],
    saved_of: Mapping[nn.Parameter, Mapping[str, Any] | None],
) -> dict[str, Any]:
    """What the local optimizer loads to hold its pieces of a whole state.

    Wider copies of the weights that the state holds are written into the pieces.

    Raises:
        ValueError: If a saved tensor does not have its parameter's shape.
    """
    template = local.state_dict()
    state = {}
    for i, piece in enumerate(pieces):
        saved = dict(saved_of[piece.parameter] or {})
        if MASTER in saved:
            with torch.no_grad():
                piece.weights.copy_(_part(saved.pop(MASTER), piece))
        if saved:
            state[i] = {name: _part(value, piece) for name, value in saved.items()}
    return {"state": state, "param_groups": template["param_groups"]}


def _part(value: Any, piece: Piece) -> Any:
    """The piece's share of a saved value; numbers belong to every piece."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0 < piece.parameter.dim():
        return value.clone()  # two pieces that share a step counter would both advance it
    if value.shape != piece.parameter.shape:
        expected, got = tuple(piece.parameter.shape), tuple(value.shape)
        raise ValueError(f"expected a state of shape {expected}, got {got}")
    return value.reshape(-1)[piece.start : piece.stop].clone()
