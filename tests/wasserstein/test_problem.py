"""What a caller may pass, and what the messages say otherwise."""

import pytest
import torch

from companion.wasserstein import exact_transport, log_sinkhorn, sinkhorn, solve_dual, solve_primal
from companion.wasserstein.problem import check_problem

SOLVERS = [
    solve_primal,
    solve_dual,
    exact_transport,
    lambda a, b, cost: sinkhorn(a, b, cost, epsilon=0.5),
    lambda a, b, cost: log_sinkhorn(a, b, cost, epsilon=0.5, max_iter=2),
]
HALF, COST = torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0]])
THIRD = torch.full((3,), 1 / 3)

BAD = [
    (torch.tensor([1.5, -0.5]), THIRD, COST, "a: expected finite weights >= 0, got from -0.5"),
    (HALF, torch.tensor([0.5, 0.5, torch.nan]), COST, "b: expected finite weights"),
    (HALF, torch.tensor([0.5, 0.5, torch.inf]), COST, "b: expected finite weights"),
    (HALF, 2 * THIRD, COST, "expected equal sums of a and b, got a relative difference of 1"),
    (0 * HALF, THIRD, COST, "a: expected a positive sum of weights, got 0"),
    (THIRD, HALF, COST, r"cost: expected shape \(\.\.\., 3, 2\) from the weights, got \(2, 3\)"),
    (HALF, THIRD, COST + torch.nan, "cost: expected finite entries, got from nan"),
    (HALF, THIRD, COST / 0, "cost: expected finite entries"),
    (HALF, torch.empty(0), torch.empty(2, 0), "at least one source and one target, got n=2, m=0"),
    (torch.tensor(1.0), THIRD, COST, "a: expected"),
]


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize(("a", "b", "cost", "message"), BAD)
def test_bad_values_are_named(solve, a, b, cost, message):
    with pytest.raises(ValueError, match=message):
        solve(a, b, cost)


@pytest.mark.parametrize("solve", SOLVERS)
def test_bad_types_are_named(solve):
    with pytest.raises(
        TypeError, match=r"a: expected a float32 or float64 tensor, got torch.int64"
    ):
        solve(torch.tensor([1, 1]), THIRD, COST)
    with pytest.raises(TypeError, match=r"a: expected a float32 or float64 tensor, got list"):
        solve([0.5, 0.5], THIRD, COST)
    with pytest.raises(
        TypeError, match=r"b: expected cost's dtype torch.float32, got torch.float64"
    ):
        solve(HALF, THIRD.double(), COST)


@pytest.mark.parametrize("solve", [solve_primal, solve_dual, exact_transport])
def test_linear_programs_take_one_problem(solve):
    with pytest.raises(ValueError, match=r"cost: expected 2 axes, got shape \(5, 2, 3\)"):
        solve(HALF, THIRD, COST.expand(5, 2, 3))


def test_batches_broadcast_or_say_so():
    a, b, cost = check_problem(HALF.expand(5, 1, 2), THIRD.expand(7, 3), COST)
    assert (a.shape, b.shape, cost.shape) == ((5, 7, 2), (5, 7, 3), (5, 7, 2, 3))
    with pytest.raises(
        ValueError, match=r"expected equal leading axes, got shapes \(5, 2\), \(7, 3\)"
    ):
        check_problem(HALF.expand(5, 2), THIRD.expand(7, 3), COST)


def test_sums_that_differ_by_rounding_are_made_equal():
    b = THIRD.double()  # rounded to float32 before: its sum is 3e-8 off
    assert abs(b.sum() - 1) > 1e-8
    a, scaled, _ = check_problem(HALF.double(), b, COST.double())
    assert abs(a.sum() - scaled.sum()) < 1e-15
