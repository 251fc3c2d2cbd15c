"""On a network made slow on purpose no algorithm beats the model, and all sums are right."""

import math
import time

import pytest
import torch
from torch import distributed

from companion.collectives.cost.closed_forms import collective_cost
from companion.collectives.cost.topology import Link
from companion.collectives.study.slow_network import (
    ALGORITHMS,
    SlowPeers,
    crossing,
    time_algorithms,
)
from companion.collectives.wire.reduction import Op

LINK = Link(alpha_s=3e-3, beta_s_per_byte=1 / 2e6)
SIZE = 4800


def begin_and_end(rank, ranks, name):
    """When this rank began and ended, on the clock that all processes share; and its result."""
    tensor = torch.full((SIZE // 4,), float(rank + 1))
    peers = SlowPeers(LINK)
    distributed.barrier()
    begin_s = time.monotonic()
    ALGORITHMS[name](tensor, Op("sum"), peers)
    return begin_s, time.monotonic(), tensor.unique().tolist()


@pytest.mark.parametrize("ranks", [3, 4])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_takes_the_models_time_or_longer(in_ranks, name, ranks):
    begins, ends, results = zip(*in_ranks(begin_and_end, ranks, name), strict=True)
    assert list(results) == [[ranks * (ranks + 1) / 2]] * ranks
    model_s = collective_cost(name, ranks=ranks, bytes=SIZE, **LINK._asdict())
    assert model_s <= max(ends) - min(begins) < 100 * model_s


def test_every_algorithm_and_size_is_timed(in_ranks):
    times = in_ranks(time_algorithms, 3, [0, 400], 2, LINK)
    assert times[0] == times[1] == times[2]
    for name, (empty_s, short_s) in times[0].items():
        assert empty_s > 0, name
        assert short_s > 0, name


def test_crossing_is_read_off_between_two_sizes():
    assert crossing([1, 3, 7], [1.0, 1.0, 9.0], [2.0, 4.0, 4.0]) == pytest.approx(3 + 4 * 3 / 8)
    assert crossing([1, 3], [1.0, 4.0], [1.0, 2.0]) == 1  # equal at first
    for first in ([1.0, 1.0, 1.0], [9.0, 9.0, 9.0], [9.0, 1.0, 9.0], [1.0, 1.0, 9.0][::-1]):
        assert math.isnan(crossing([1, 2, 3], first, [2.0, 2.0, 2.0]))
