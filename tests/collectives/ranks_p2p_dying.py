"""Ranks of which one dies in the middle of an all-reduce."""

import json
import os
import signal
import time
from datetime import timedelta

import torch
from torch import distributed

from companion.collectives.wire.reduction import Op
from tests.collectives.ranks_p2p_group import ALL

TIMEOUT_S = 250


def die_in_the_second_addition():
    """Kill -9 ourselves when we have received and added once."""
    combine, calls = Op.combine_, []

    def deadly(self, own, received):
        combine(self, own, received)
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Op.combine_ = deadly


def start_group(rank, size, folder, timeout_s):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo",
        store=distributed.FileStore(f"{folder}/store", size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    distributed.barrier()


def leaves_with_a_call_under_way(rank, size, folder):
    """Rank 0 returns from its program while its call waits for rank 1, which never comes."""
    start_group(rank, size, folder, TIMEOUT_S)
    if rank == 0:
        handle = ALL["ring"](torch.ones(5), async_op=True)
        time.sleep(0.1)
        if handle.is_completed():
            raise RuntimeError("the call ended without its peer")
    else:
        time.sleep(250)


def rank_that_survives_or_not(rank, size, folder, algorithm):
    """Rank 2 dies; each other rank writes what it saw to a file."""
    start_group(rank, size, folder, TIMEOUT_S)
    if rank == 2:
        die_in_the_second_addition()
    start = time.perf_counter()
    error = None
    try:
        for _ in range(2):
            ALL[algorithm](torch.ones(100_003))
    except RuntimeError as lost:
        error = f"{type(lost).__name__}: {lost}"
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump({"error": error, "seconds": time.perf_counter() - start}, file)
