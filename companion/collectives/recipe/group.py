"""The group that the training recipe runs in, however it was started.

Chapter: course/11_collectives.ipynb.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

__all__ = ["check_same_settings", "training_group"]


@contextmanager
def training_group(device: str, *, timeout_s: float) -> Iterator[torch.device]:
    """This process's device, within a group: torchrun's, the one that is there, or one of its own.

    A process on its own forms a group of one rank, so that nothing else has to tell the two apart.

    Args:
        device: "cpu" (gloo) or "cuda" (NCCL; the ranks of a host take one device each).
        timeout_s: How long a rank waits for another one.

    Raises:
        ValueError: If the host has fewer devices than ranks.
    """
    here = _device(device)
    if distributed.is_initialized():
        yield here
        return
    alone = {} if "RANK" in os.environ else {"store": distributed.HashStore(), "rank": 0}
    distributed.init_process_group(
        "nccl" if here.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_s),
        **(alone | {"world_size": 1} if alone else {}),
    )
    try:
        yield here
    finally:
        distributed.destroy_process_group()


def _device(name: str) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local_rank >= count:
        raise ValueError(f"expected a CUDA device for every rank of this host, got {count} devices")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def check_same_settings(settings: Mapping[str, Any]) -> None:
    """Stop ranks that disagree before they wait for one another, or train two models.

    Raises:
        ValueError: On every rank, naming the first difference.
    """
    of_rank: list[dict[str, Any]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(of_rank, dict(settings))
    for rank, other in enumerate(of_rank):
        for name, expected in of_rank[0].items():
            if other[name] != expected:
                raise ValueError(
                    f"expected {name} = {expected} on all ranks, as on rank 0, got {other[name]} "
                    f"on rank {rank}: do all ranks see the same files?"
                )
