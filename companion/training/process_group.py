"""One process, or the group of them that torchrun started: who is first, and what all agree on."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from tqdm import tqdm

__all__ = ["check_alike", "is_first", "process_group", "rank_and_ranks", "say"]


@contextmanager
def process_group(
    device: str, *, timeout_s: float | None = None, alone: bool = False
) -> Iterator[torch.device]:
    """This process's device; under torchrun also the group of all processes, while it lasts.

    A group that is there already serves, and stays.

    Args:
        device: "cpu" (gloo) or "cuda" (NCCL, one device for each process of this machine).
        timeout_s: How long a process waits for another one; None is torch's default.
        alone: Whether a process on its own forms a group of one, so that nothing else has to tell
            the two apart.

    Raises:
        ValueError: If there is no such device.
    """
    here = _device(device)
    launched = "RANK" in os.environ
    if distributed.is_initialized() or not (launched or alone):
        yield here
        return
    of_one = {} if launched else {"store": distributed.HashStore(), "rank": 0, "world_size": 1}
    distributed.init_process_group(
        "nccl" if here.type == "cuda" else "gloo",
        timeout=None if timeout_s is None else timedelta(seconds=timeout_s),
        device_id=here if here.type == "cuda" else None,
        **of_one,
    )
    try:
        yield here
    finally:
        distributed.destroy_process_group()


def rank_and_ranks() -> tuple[int, int]:
    """This process's number and how many there are: (0, 1) for a process on its own."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank_and_ranks()[0] == 0


def say(line: str) -> None:
    """Print a line on standard output, once for all processes and above a progress bar."""
    if is_first():
        tqdm.write(line)


def check_alike(values: Mapping[str, Any]) -> None:
    """Stop processes that disagree: they would wait for one another, or train two models.

    Raises:
        ValueError: In every process, if one has other values than the first; the message names it.
    """
    ranks = rank_and_ranks()[1]
    if ranks == 1:
        return
    of_rank: list[dict[str, Any]] = [{}] * ranks
    distributed.all_gather_object(of_rank, dict(values))
    for rank, own in enumerate(of_rank):
        if other := [name for name in values if own[name] != of_rank[0][name]]:
            expected, got = ({name: of[name] for name in other} for of in (of_rank[0], own))
            raise ValueError(
                f"expected {expected}, as process 0 has, got {got} in process {rank}: "
                "do all processes see the same files?"
            )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"expected a device such as cpu or cuda, got {name!r}") from error
    if device.type != "cuda":
        return device
    index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"expected at least {index + 1} CUDA devices for --device {name}, "
            f"got {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device
