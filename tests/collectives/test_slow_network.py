"""On a network made slow on purpose no algorithm beats the model, and all sums are right."""

import math
import time

import pytest
import torch
from torch import distributed

from companion.collectives.cost.closed_forms import collective_cost
from companion.collectives.cost.topology import Link
from companion.collectives.study import slow_network
from companion.collectives.study.slow_network import (
    ALGORITHMS,
    SlowPeers,
    crossing,
    time_algorithms,
)
from companion.collectives.study.standing_ranks import StandingRanks
from companion.collectives.wire.reduction import Op

LINK = Link(alpha_s=3e-3, beta_s_per_byte=1 / 2e6)
SIZE = 4800


def begin_and_end(rank, ranks, name, busy):
    """When this rank began and ended, on the clock that all processes share; and its result."""
    tensor = torch.full((SIZE // 4,), float(rank + 1))
    peers = SlowPeers(LINK, busy=busy)
    distributed.barrier()
    begin_s = time.monotonic()
    ALGORITHMS[name](tensor, Op("sum"), peers)
    return begin_s, time.monotonic(), tensor.unique().tolist()


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("ranks", [3, 4])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_takes_the_models_time_or_longer(in_ranks, name, ranks, busy):
    begins, ends, results = zip(*in_ranks(begin_and_end, ranks, name, busy), strict=True)
    assert list(results) == [[ranks * (ranks + 1) / 2]] * ranks
    model_s = collective_cost(name, ranks=ranks, bytes=SIZE, **LINK._asdict())
    assert model_s <= max(ends) - min(begins) < 100 * model_s


def cpu_s(rank, ranks, busy):
    """Seconds of a processor that this rank's thread uses during a ring all-reduce."""
    tensor, peers = torch.ones(SIZE // 4), SlowPeers(LINK, busy=busy)
    distributed.barrier()
    start_s = time.thread_time()
    ALGORITHMS["ring"](tensor, Op("sum"), peers)
    return time.thread_time() - start_s


def test_only_busy_ranks_use_a_processor_for_the_models_time(in_ranks):
    model_s = collective_cost("ring", ranks=3, bytes=SIZE, **LINK._asdict())
    asleep, at_work = in_ranks(cpu_s, 3, False), in_ranks(cpu_s, 3, True)
    # What a rank waits for others on shared processors, it need not work for.
    assert max(asleep) < 0.3 * model_s < max(at_work) < 1.3 * model_s


def test_work_takes_longer_on_half_a_processor(monkeypatch):
    whole_s = time.thread_time
    monkeypatch.setattr(slow_network.time, "thread_time", lambda: whole_s() / 2)
    start_s = time.monotonic()
    slow_network._work_until(start_s + 0.05)
    assert time.monotonic() - start_s > 0.09
    slow_network._work_until(time.monotonic() - 1)  # too late already: nothing to do


def timed(rank, ranks, *arguments, **options):
    return time_algorithms(*arguments, **options)


def test_every_algorithm_and_size_is_timed(in_ranks):
    times = in_ranks(timed, 3, 3, [0, 400], 2, LINK)
    assert times[0] == times[1] == times[2]
    assert list(times[0]) == list(ALGORITHMS)
    for name, (empty_s, short_s) in times[0].items():
        assert empty_s > 0, name
        assert short_s > 0, name


def test_the_first_ranks_measure_alone_and_only_what_is_named():
    with StandingRanks(3) as ranks:
        for link in (None, LINK):
            times = ranks.order(time_algorithms, 2, [400], 1, link, names=["ring"], busy=True)
            assert times[0] == times[1]
            assert list(times[0]) == ["ring"]
            assert times[2] == {}
    model_s = collective_cost("ring", ranks=2, bytes=400, **LINK._asdict())
    assert times[0]["ring"][0] >= model_s


def test_crossing_is_read_off_between_two_sizes():
    assert crossing([1, 3, 7], [1.0, 1.0, 9.0], [2.0, 4.0, 4.0]) == pytest.approx(3 + 4 * 3 / 8)
    assert crossing([1, 3], [1.0, 4.0], [1.0, 2.0]) == 1  # equal at first
    for first in ([1.0, 1.0, 1.0], [9.0, 9.0, 9.0], [9.0, 1.0, 9.0], [1.0, 1.0, 9.0][::-1]):
        assert math.isnan(crossing([1, 2, 3], first, [2.0, 2.0, 2.0]))
