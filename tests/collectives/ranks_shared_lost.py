"""Four ranks that reduce in shared memory, of which one kills itself in the middle."""

import json
import os
import signal
import time
from pathlib import Path

import torch
from torch import distributed

from companion.collectives import shared_memory
from companion.collectives.shared_memory import shared_memory_all_reduce
from tests.collectives.ranks_p2p_dying import start_group
from tests.collectives.ranks_p2p_group import error_of

TIMEOUT_S = 250


def rank_that_survives_or_not(rank, size, folder):
    """Rank 2 dies while it adds its slice of the second piece; each other writes what it saw."""
    start_group(rank, size, folder, TIMEOUT_S)
    group = distributed.new_group(range(4), timeout=distributed.distributed_c10d.default_pg_timeout)
    for each in (None, group):
        shared_memory_all_reduce(torch.ones(5), group=each)
    if rank == 2:
        die_in_the_second_addition()
    report = {}
    for name, each in (("in pieces", None), ("at rest", group)):
        start = time.perf_counter()
        error = error_of(lambda each=each: shared_memory_all_reduce(torch.ones(10**6), group=each))
        report[name] = (error, time.perf_counter() - start)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(report, file)
    while len(list(Path(folder).glob("*.json"))) < 3:
        time.sleep(0.01)  # or a slower one would have lost us, too


def die_in_the_second_addition():
    """Kill -9 ourselves when our slice of the second piece is added."""
    combine, calls = shared_memory._combine, []

    def deadly(*arguments):
        combine(*arguments)
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    shared_memory._combine = deadly
