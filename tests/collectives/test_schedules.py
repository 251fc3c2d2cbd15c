"""What the schedules deliver, followed as sets of ranks, and the ring's states."""

import pytest

from companion.collectives.cost.coefficients import ALGORITHMS, cost_coefficients
from companion.collectives.cost.schedules import schedule
from companion.collectives.study.ring_states import Move, RingState, holds_invariant, ring_steps

RANKS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 23]
WHOLE = ["tree", "parameter_server", "recursive_doubling"]


@pytest.mark.parametrize("algorithm", WHOLE)
@pytest.mark.parametrize("ranks", RANKS)
def test_whole_tensors_reach_everyone_and_nothing_counts_twice(algorithm, ranks):
    held = [[rank] for rank in range(ranks)]
    for step in schedule(algorithm, ranks=ranks, bytes=1.0):
        moving = [held[src] for src in step.src]
        for dst, sum_ in zip(step.dst, moving, strict=True):
            held[dst] = held[dst] + sum_ if step.adds else sum_
    assert all(sorted(sum_) == list(range(ranks)) for sum_ in held)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ranks", RANKS)
def test_a_rank_sends_one_message_and_receives_one_in_a_step(algorithm, ranks):
    for step in schedule(algorithm, ranks=ranks, bytes=1.0):
        assert len(set(step.src.tolist())) == len(step.src) == len(step.dst)
        assert len(set(step.dst.tolist())) == len(step.dst)
        assert not (step.src == step.dst).any()
        assert {*step.src.tolist(), *step.dst.tolist()} <= set(range(ranks))


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "hierarchical"])
@pytest.mark.parametrize("ranks", RANKS)
def test_steps_are_the_messages_of_the_model(algorithm, ranks):
    steps = list(schedule(algorithm, ranks=ranks, bytes=1.0))
    factors = cost_coefficients(algorithm, ranks=ranks)
    assert sum(step.repeat for step in steps) == factors.messages
    assert sum(step.repeat * step.bytes for step in steps) == pytest.approx(factors.moved)
    added = sum(step.repeat * step.bytes for step in steps if step.adds)
    assert added == pytest.approx(factors.added)


def test_rings_stay_in_their_hosts():
    inside, across, back, out = schedule("hierarchical", ranks=6, bytes=12.0, ranks_per_host=3)
    assert inside.dst.tolist() == out.dst.tolist() == [1, 2, 0, 4, 5, 3]
    assert across.dst.tolist() == back.dst.tolist() == [3, 4, 5, 0, 1, 2]
    assert [step.bytes for step in (inside, across, back, out)] == [4, 2, 2, 4]
    assert [step.repeat for step in (inside, across, back, out)] == [2, 1, 1, 2]


def test_hosts_must_be_full():
    with pytest.raises(ValueError, match="multiple of"):
        schedule("hierarchical", ranks=5, bytes=1.0, ranks_per_host=2)


# The ring's states


def test_ring_of_three_by_hand():
    sums = [
        [[[sorted(c) for c in row] for row in state.held], [tuple(m) for m in state.moves]]
        for state in ring_steps(3)
    ]
    every = [0, 1, 2]
    assert sums == [
        [[[[0], [0], [0]], [[1], [1], [1]], [[2], [2], [2]]], []],
        # rank r sends chunk r − 1, rank r + 1 adds it
        [
            [[[0], [0, 2], [0]], [[1], [1], [0, 1]], [[1, 2], [2], [2]]],
            [(0, 1, 2), (1, 2, 0), (2, 0, 1)],
        ],
        [
            [[every, [0, 2], [0]], [[1], every, [0, 1]], [[1, 2], [2], every]],
            [(0, 1, 1), (1, 2, 2), (2, 0, 0)],
        ],
        [
            [[every, [0, 2], every], [every, every, [0, 1]], [[1, 2], every, every]],
            [(0, 1, 0), (1, 2, 1), (2, 0, 2)],
        ],
        [[[every] * 3] * 3, [(0, 1, 2), (1, 2, 0), (2, 0, 1)]],
    ]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 7, 8])
def test_ring_ends_with_all_sums_everywhere(ranks):
    states = ring_steps(ranks)
    assert len(states) == 2 * (ranks - 1) + 1
    assert states[-1].held == ((frozenset(range(ranks)),) * ranks,) * ranks
    scattered = states[ranks - 1].held  # chunk r of rank r: what reduce-scatter promises
    assert all(scattered[rank][rank] == set(range(ranks)) for rank in range(ranks))
    assert all(holds_invariant(state) for state in states)


def test_the_invariant_notices_a_wrong_chunk():
    good = ring_steps(4)[2]
    held = [list(row) for row in good.held]
    held[1][2] = held[1][2] - {3}  # after 2 steps: chunk 1 − 2 − 1 of rank 1, of ranks 3, 0, 1
    assert held[1][2] == {0, 1}
    bad = RingState(good.step, good.phase, tuple(map(tuple, held)), good.moves)
    assert holds_invariant(good)
    assert not holds_invariant(bad)


def test_moves_go_to_the_right():
    for state in ring_steps(5)[1:]:
        assert [(m.src, m.dst) for m in state.moves] == [(r, (r + 1) % 5) for r in range(5)]
        assert len({m.chunk for m in state.moves}) == 5
    assert ring_steps(5)[1].moves[2] == Move(src=2, dst=3, chunk=1)
