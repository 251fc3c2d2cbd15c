"""Masses from pairs: by hand, against rational arithmetic, and what is no basic plan."""

import pytest
import torch

from companion.wasserstein.basic_plan import basic_plan


def weights(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [2, 2]])
    plan = basic_plan(pairs, weights(0.5, 0.25, 0.25), weights(0.25, 0.5, 0.25))
    assert plan.tolist() == [[0.25, 0.25, 0], [0, 0.25, 0], [0, 0, 0.25]]


@pytest.mark.parametrize("heavy_first", [True, False])
def test_what_is_left_after_a_subtraction_has_all_its_digits(heavy_first):
    """The source of 1/2 serves a target that is 3e-17 heavier than what it has left."""
    a, b = weights(0.5, 1 / 3), weights(0.5 - 2**-53, 2**-53, 1 / 3)
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2]])
    if not heavy_first:
        pairs = pairs.flip(0)
    assert basic_plan(pairs, a, b)[0].tolist() == [*b[:2].tolist(), 0]


def test_a_chain_of_five_pairs_is_exact():
    a = weights(0.75, 2**-44, 0.25 - 2**-44)
    b = weights(0.75 - 2**-30, 2**-30 + 2**-33, 0.25 - 2**-33)
    plan = basic_plan(torch.tensor([[0, 0], [0, 1], [1, 1], [2, 1], [2, 2]]), a, b)
    assert plan[0, 1] == 2**-30
    assert plan[2, 1] == 2**-33 - 2**-44


def test_the_heaviest_point_takes_what_the_sums_differ_by():
    a, b = weights(1e-3, 1.0), weights(1e-3, 0.5, 0.5 + 2**-52)
    plan = basic_plan(torch.tensor([[0, 0], [1, 0], [1, 1], [1, 2]]), a, b)
    assert plan.sum(0).tolist() == b.tolist()
    assert plan[0].sum() == a[0]


def test_a_cycle_is_no_basic_plan():
    square = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [2, 1]])
    with pytest.raises(RuntimeError, match="expected pairs without a cycle, got 4 in cycles"):
        basic_plan(square, weights(0.25, 0.5, 0.25), weights(0.5, 0.5))


@pytest.mark.parametrize("pairs", [[[0, 0]], [[0, 1], [1, 0]]])
def test_pairs_that_cannot_carry_the_weights(pairs):
    with pytest.raises(RuntimeError, match=r"expected a plan with the weights given.*misses 0\.2"):
        basic_plan(torch.tensor(pairs), weights(0.75, 0.25), weights(0.5, 0.5))
