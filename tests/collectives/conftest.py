"""Ranks that stay, and fork: a process takes three seconds to import PyTorch, most tests one."""

import multiprocessing
from collections.abc import Iterator

import pytest
from torch import distributed

from companion.collectives.study.standing_ranks import OrderFailed, StandingRanks

# The server imports and does nothing else, so its forks have no thread of PyTorch to miss. The
# optimizers import the second when the first one is made.
multiprocessing.set_forkserver_preload(["torch.distributed", "torch._dynamo"])


@pytest.fixture(scope="session")
def in_ranks() -> Iterator:
    """As ``launch``, in P ranks that later tests use too; each starts when it is first needed."""
    standing: dict[int, StandingRanks] = {}

    def run(function, world_size, *arguments):
        if world_size not in standing:
            standing[world_size] = StandingRanks(world_size, timeout_s=250, context="forkserver")
        try:
            return standing[world_size].order(as_rank, function, *arguments)
        except OrderFailed:
            del standing[world_size]  # they have been ended
            raise

    yield run
    for ranks in standing.values():
        ranks.close()


def as_rank(function, *arguments):
    return function(distributed.get_rank(), distributed.get_world_size(), *arguments)
