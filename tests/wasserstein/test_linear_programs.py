"""The two linear programs against POT, each other and answers found by hand."""

import ot
import pytest
import torch
from torch.testing import assert_close

from companion.wasserstein import (
    c_transform,
    equality_matrix,
    exact_transport,
    solve_dual,
    solve_primal,
)
from tests.wasserstein.instances import points, problem

SIZES = [(1, 1), (1, 5), (3, 4), (7, 5), (11, 13)]


def test_equality_matrix_takes_row_sums_then_column_sums():
    plan = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0], [0.0, 1.0, 0.0, 5.0]])
    sums = equality_matrix(3, 4, dtype=torch.float32) @ plan.flatten()
    assert sums.tolist() == [15, 240, 6, 17, 35, 68, 141]


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equality_matrix_has_one_redundant_row(n, m):
    matrix = equality_matrix(n, m)
    assert matrix.shape == (n + m, n * m)
    assert torch.linalg.matrix_rank(matrix) == n + m - 1


@pytest.mark.parametrize("zeros", [0, 2])
@pytest.mark.parametrize(("n", "m"), [(3, 4), (7, 5), (11, 13)])
def test_primal_and_dual_meet_at_the_value_of_pot(n, m, zeros):
    a, b, cost = problem(n, m, seed=n, zeros=zeros)
    plan, (f, g) = solve_primal(a, b, cost), solve_dual(a, b, cost)
    assert_close(equality_matrix(n, m) @ plan.flatten(), torch.cat([a, b]))
    assert plan.min() >= 0
    assert (cost - f[:, None] - g).min() > -1e-9
    expected = ot.emd2(a.numpy(), b.numpy(), cost.numpy())
    assert abs((plan * cost).sum() - expected) < 1e-9
    assert abs(a @ f + b @ g - expected) < 1e-9
    assert f[0] == 0


def test_dual_by_hand_has_the_right_signs():
    # All mass must move from source 0 to target 1 at price 3, and f[0] = 0.
    one = torch.tensor([1.0, 0.0])
    f, g = solve_dual(one, one.flip(0), torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    assert f[0] == 0
    assert g[1] == 3


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_dtype_and_device_are_the_costs(dtype, atol, device):
    a, b, cost = (t.to(device, dtype) for t in problem(5, 7))
    plan, (f, g) = solve_primal(a, b, cost), solve_dual(a, b, cost)
    for tensor in (plan, f, g):
        assert (tensor.dtype, tensor.device) == (dtype, cost.device)
    assert abs((plan * cost).sum() - a @ f - b @ g) < atol


def test_c_transform_by_hand_minimises_over_the_rows():
    f = torch.tensor([0.0, 2.0])
    cost = torch.tensor([[1.0, 4.0, 0.0], [2.0, 2.0, 5.0]])
    assert c_transform(f, cost).tolist() == [0, 0, 0]
    assert c_transform(torch.tensor([1.0, 0.0, 0.0]), cost.mT).tolist() == [0, 1]


def test_c_transform_is_the_largest_feasible_potential(device):
    _, _, cost = problem(5, 7, seed=3)
    cost = cost.to(device)
    f = points(5, 1, seed=0)[:, 0].to(device)
    g = c_transform(f, cost)
    slack = cost - f[:, None] - g
    assert slack.min() > -1e-15
    assert_close(slack.amin(0), torch.zeros_like(g))
    # Three transforms are as good as one.
    assert_close(c_transform(c_transform(g, cost.mT), cost), g)


def test_c_transform_of_a_batch_and_of_a_transposed_view():
    _, _, cost = problem(5, 7, seed=3)
    f = points(3, 5, seed=1)
    expected = torch.stack([c_transform(row, cost.contiguous()) for row in f])
    assert_close(c_transform(f, cost), expected)
    assert_close(c_transform(f, cost.mT.contiguous().mT), expected)


def test_for_a_metric_an_optimal_dual_pair_is_f_and_minus_f_with_f_1_lipschitz():
    x = points(9, 2, seed=5)
    distance = (x[:, None] - x).norm(dim=-1)
    a, b, _ = problem(9, 9, seed=4)
    _, cost, f, _ = exact_transport(a, b, distance)
    f = c_transform(c_transform(f, distance), distance.mT)
    assert_close(c_transform(f, distance), -f, atol=1e-12, rtol=0)
    assert abs((a - b) @ f - cost) < 1e-12
    assert ((f[:, None] - f) <= distance + 1e-12).all()


def test_for_squared_distance_minus_f_is_not_the_c_transform():
    x = points(9, 2, seed=5)
    squared = (x[:, None] - x).square().sum(-1)
    a, b, _ = problem(9, 9, seed=4)
    _, cost, f, g = exact_transport(a, b, squared)
    assert (g + f).abs().max() > 0.1
    assert (a - b) @ f < cost - 0.01 or ((f[:, None] - f) > squared + 0.01).any()


def test_c_transform_refuses_a_potential_of_the_wrong_side():
    with pytest.raises(ValueError, match=r"f: expected one value for each row of cost \(5, 7\)"):
        c_transform(torch.zeros(7), torch.zeros(5, 7))
    with pytest.raises(ValueError, match="f: expected one value for each row"):
        c_transform(torch.zeros(0), torch.zeros(0, 7))
