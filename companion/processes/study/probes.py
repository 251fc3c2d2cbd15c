"""What chapter 10 runs in other processes; a spawned process can only import it, so it stands here.

Chapter: course/10_processes.ipynb.
"""

import os
import signal
import time

__all__ = [
    "add_ranks",
    "die_at",
    "double_in_place",
    "fail_at",
    "intra_op_threads",
    "meet",
    "sleep_at",
    "who_am_i",
]


def double_in_place(shared) -> None:
    """Multiply a ``SharedArray`` by two where it lies."""
    shared.tensor.mul_(2)


def who_am_i(rank: int, world_size: int) -> tuple[int, int, int]:
    """This rank, the world size, and the process it is."""
    return rank, world_size, os.getpid()


def intra_op_threads(rank: int, world_size: int) -> int:
    """How many threads PyTorch gives to one operation in this rank."""
    import torch

    return torch.get_num_threads()


def add_ranks(rank: int, world_size: int) -> list[float]:
    """Every rank brings (rank, 1); all receive the sum."""
    import torch
    from torch import distributed

    mine = torch.tensor([float(rank), 1.0])
    distributed.all_reduce(mine)
    return mine.tolist()


def fail_at(rank: int, world_size: int, failing: int) -> None:
    """Rank ``failing`` divides by zero; the others wait for it in a barrier."""
    from torch import distributed

    if rank == failing:
        1 / (rank - failing)
    distributed.barrier()


def die_at(rank: int, world_size: int, dying: int) -> None:
    """Rank ``dying`` is killed by the system; the others wait for it in a barrier."""
    from torch import distributed

    if rank == dying:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def sleep_at(rank: int, world_size: int, sleeping: int) -> None:
    """Rank ``sleeping`` never comes to the barrier."""
    from torch import distributed

    if rank == sleeping:
        time.sleep(3600)
    distributed.barrier()


def meet(store, rank: int, world_size: int) -> list[str]:
    """A rendezvous in its simplest form: write your address under your rank, read all others.

    Args:
        store: Shared dictionary whose ``get`` waits for a key (``torch.distributed.Store``).
    """
    store.set(f"address of {rank}", f"room {10 * rank + 10}")
    return [store.get(f"address of {r}").decode() for r in range(world_size)]
