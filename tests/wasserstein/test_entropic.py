"""Sinkhorn against POT, its own log-domain reference, closed forms and finite differences."""

import math
import warnings

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from companion.wasserstein import (
    c_transform,
    exact_transport,
    log_sinkhorn,
    sinkhorn,
    soft_c_transform,
)
from companion.wasserstein.entropic import scaling_iterations
from tests.wasserstein.instances import generator, points, problem, weights

HALF = torch.tensor([0.5, 0.5], dtype=torch.float64)
SWAP = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)


def exactly(iterations: int, *args, **kwargs):
    """Sinkhorn stopped after a fixed number of iterations, its warning expected."""
    with pytest.warns(RuntimeWarning, match=f"stopped after {iterations} iterations"):
        return sinkhorn(*args, tol=0, max_iter=iterations, **kwargs)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.02])
def test_two_by_two_by_hand(epsilon, device):
    # By symmetry f + g is constant: the plan is (1/2) / (1 + e^(-1/ε)) on the diagonal.
    result = sinkhorn(HALF.to(device), HALF.to(device), SWAP.to(device), epsilon=epsilon)
    stay = 0.5 / (1 + math.exp(-1 / epsilon))
    assert_close(result.plan.diagonal().cpu(), torch.full((2,), stay).double())
    assert_close(result.cost.item(), 1 - 2 * stay)
    assert_close(
        (result.f + result.g).cpu(), torch.full((2,), epsilon * math.log(4 * stay)).double()
    )


def test_a_separable_cost_leaves_the_product_plan():
    a, b, _ = problem(5, 7)
    row, column = points(5, 1, seed=0), points(7, 1, seed=1)[:, 0]
    result = sinkhorn(a, b, row + column, epsilon=0.01)
    assert_close(result.plan, a[:, None] * b)
    assert_close(result.f, (row - row[0])[:, 0])
    assert_close(result.g, column + row[0])


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.03])
def test_plan_is_pots(epsilon, device):
    a, b, cost = problem(11, 7)
    expected, log = ot.sinkhorn(
        a.numpy(), b.numpy(), cost.numpy(), epsilon,
        method="sinkhorn_log", stopThr=1e-13, numItermax=20_000, log=True,
    )  # fmt: skip
    result = sinkhorn(
        a.to(device), b.to(device), cost.to(device), epsilon=epsilon, tol=1e-13, max_iter=20_000
    )
    assert_close(result.plan.cpu(), torch.from_numpy(expected), atol=1e-12, rtol=1e-9)
    # The documented relation between the potentials, up to their common constant.
    pots_f = epsilon * (torch.from_numpy(log["log_u"]) - a.log())
    assert_close(result.f.cpu(), pots_f - pots_f[0], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("iterations", [1, 2, 3, 50])
@pytest.mark.parametrize("epsilon", [1.0, 0.05, 1e-3, 1e-5])
def test_every_iterate_is_the_log_domain_one(epsilon, iterations):
    a, b, cost = problem(11, 7, seed=3)
    fast = exactly(iterations, a, b, cost, epsilon=epsilon)
    slow = log_sinkhorn(a, b, cost, epsilon=epsilon, max_iter=iterations)
    # Potentials carry rounding of size 1e-16, which the plan sees divided by ε.
    for ours, reference in zip(fast, slow, strict=True):
        assert_close(ours, reference, atol=1e-11, rtol=1e-13 / epsilon)


@pytest.mark.parametrize("iterations", [2, 5, 300])
def test_potentials_that_travel_far_are_absorbed(iterations):
    # A translation by many spacings: f must grow to thousands of ε, far beyond exp's range.
    x = torch.arange(12.0, dtype=torch.float64)
    cost = (x[:, None] - (x + 3.3)).square()
    a, b = weights(12, seed=0), weights(12, seed=1)
    fast = exactly(iterations, a, b, cost, epsilon=0.01)
    slow = log_sinkhorn(a, b, cost, epsilon=0.01, max_iter=iterations)
    if iterations == 300:
        start = log_sinkhorn(a, b, cost, epsilon=0.01, max_iter=1).f
        assert (slow.f - start).abs().max() / 0.01 > 1000
    for ours, reference in zip(fast, slow, strict=True):
        assert_close(ours, reference, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "tol", "atol"), [(torch.float32, 1e-6, 2e-5), (torch.float64, 1e-12, 1e-11)]
)
@pytest.mark.parametrize("epsilon", [1.0, 0.05])
def test_marginals(dtype, tol, atol, epsilon, device):
    a, b, cost = (t.to(device, dtype) for t in problem(23, 17, seed=1))
    result = sinkhorn(a, b, cost, epsilon=epsilon, tol=tol, max_iter=20_000)
    assert_close(result.plan.sum(1), a, atol=atol, rtol=0)
    assert_close(result.plan.sum(0), b, atol=atol, rtol=0)
    for tensor in result:
        assert (tensor.dtype, tensor.device) == (dtype, cost.device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_epsilon_is_finite_and_nearly_exact(dtype, device):
    # Each y lies near one x: the exact plan pairs them, and so does the entropic one.
    x, order = points(9, 2, seed=0), torch.randperm(9, generator=generator(0))
    cost = (x[:, None] - (x[order] + 0.01 * points(9, 2, seed=1))).square().sum(-1)
    uniform = torch.full((9,), 1 / 9, dtype=torch.float64)
    exact = exact_transport(uniform, uniform, cost)
    args = (t.to(device, dtype) for t in (uniform, uniform, cost))
    result = sinkhorn(*args, epsilon=1e-5, tol=1e-5)
    assert_close(result.plan.cpu().double(), exact.plan, atol=1e-4, rtol=0)
    assert_close(result.cost.cpu().double(), exact.cost, atol=1e-5, rtol=0)


def test_potentials_tend_to_kantorovichs():
    a, b, cost = problem(7, 5, seed=2)
    exact = exact_transport(a, b, cost)
    result = sinkhorn(a, b, cost, epsilon=0.01, tol=1e-7, max_iter=10_000)
    # Generic weights: the plan is a tree, so Kantorovich's potentials are unique.
    assert_close(result.f, exact.f, atol=0.05, rtol=0)
    assert_close(result.g, exact.g, atol=0.05, rtol=0)


def test_the_bias_of_the_plan_and_its_limits():
    a, b, cost = problem(7, 5, seed=2)
    costs = [sinkhorn(a, b, cost, epsilon=e, max_iter=10_000).cost for e in (10, 1, 0.1, 0.03)]
    assert costs == sorted(costs, reverse=True)
    product = sinkhorn(a, b, cost, epsilon=1e6).plan
    assert_close(product, a[:, None] * b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("solve", [sinkhorn, log_sinkhorn])
@pytest.mark.parametrize("epsilon", [0.5, 0.02])
def test_zero_weights_move_nothing_and_make_no_nan(solve, epsilon, device):
    a, b, cost = (t.to(device) for t in problem(7, 6, zeros=2))
    cost[0, 0] = -50  # tempting, but both weights are zero
    result = solve(a, b, cost, epsilon=epsilon, max_iter=5000)
    for tensor in result:
        assert tensor.isfinite().all()
    assert (result.plan[:2] == 0).all()
    assert (result.plan[:, :2] == 0).all()
    inner = solve(a[2:], b[2:], cost[2:, 2:], epsilon=epsilon, max_iter=5000)
    assert_close(result.plan[2:, 2:], inner.plan, atol=1e-6, rtol=0)
    # f is extended to the empty rows by the soft c-transform.
    extended = soft_c_transform(result.g, b, cost.mT, epsilon=epsilon)
    assert_close(result.f, extended, atol=1e-4, rtol=0)


def test_batches_equal_their_members(device):
    a = torch.stack([weights(5, seed=s) for s in range(3)]).to(device)
    b = torch.stack([weights(7, seed=s) for s in range(10, 13)]).to(device)
    _, _, cost = problem(5, 7)
    cost = cost.to(device)  # shared
    batch = sinkhorn(a, b, cost, epsilon=0.1, tol=1e-12, max_iter=5000)
    assert batch.plan.shape == (3, 5, 7)
    for k in range(3):
        single = sinkhorn(a[k], b[k], cost, epsilon=0.1, tol=1e-12, max_iter=5000)
        for ours, reference in zip(batch, single, strict=True):
            assert_close(ours[k], reference, atol=1e-10, rtol=1e-10)
    strided = sinkhorn(a, b, cost.mT.contiguous().mT, epsilon=0.1, tol=1e-12, max_iter=5000)
    assert_close(strided.plan, batch.plan)


def test_masses_other_than_one():
    a, b, cost = problem(5, 7)
    one = sinkhorn(a, b, cost, epsilon=0.1, tol=1e-10)
    ten = sinkhorn(10 * a, 10 * b, cost, epsilon=0.1, tol=1e-9)
    assert_close(ten.plan, 10 * one.plan, atol=1e-8, rtol=0)


def test_iteration_stops_where_the_tolerance_is_met():
    a, b, cost = problem(11, 7)
    _, _, error, used = scaling_iterations(a, b, cost, 0.5, tol=1e-3, max_iter=1000)
    assert error < 1e-3
    assert 0 < used < 100
    _, _, error, _ = scaling_iterations(a, b, cost, 0.5, tol=0, max_iter=used - 1)
    assert error >= 1e-3


def test_the_warning_names_error_and_iterations_and_a_converged_run_is_silent():
    a, b, cost = problem(11, 7)
    message = r"stopped after 3 iterations with marginal error 0\.\d+, expected below tol=1e-06"
    with pytest.warns(RuntimeWarning, match=message):
        result = sinkhorn(a, b, cost, epsilon=0.05, max_iter=3)
    assert result.plan.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sinkhorn(a, b, cost, epsilon=0.5)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="epsilon must be a finite number more than 0, got 0"):
        sinkhorn(HALF, HALF, SWAP, epsilon=0)
    with pytest.raises(ValueError, match="epsilon must be a finite number more than 0, got -1"):
        log_sinkhorn(HALF, HALF, SWAP, epsilon=-1)
    with pytest.raises(ValueError, match="max_iter must be at least 1, got 0"):
        sinkhorn(HALF, HALF, SWAP, epsilon=1, max_iter=0)
    with pytest.raises(ValueError, match="tol must be a finite number of at least 0, got nan"):
        sinkhorn(HALF, HALF, SWAP, epsilon=1, tol=float("nan"))


def test_soft_c_transform_by_hand_and_its_limit():
    f, a = torch.tensor([0.0, 2.0]).double(), torch.tensor([0.25, 0.75]).double()
    cost = torch.tensor([[1.0, 4.0, 0.0], [2.0, 2.0, 5.0]]).double()
    expected = [
        -math.log(0.25 * math.exp(-c) + 0.75 * math.exp(2 - d)) for c, d in cost.mT.tolist()
    ]
    assert_close(soft_c_transform(f, a, cost, epsilon=1.0), torch.tensor(expected).double())
    assert_close(
        soft_c_transform(f, a, cost, epsilon=1e-9), c_transform(f, cost), atol=1e-8, rtol=0
    )


# Gradients ------------------------------------------------------------------------------------


def outputs(theta, phi, cost):
    result = sinkhorn(
        theta.softmax(-1), phi.softmax(-1), cost, epsilon=0.3, tol=1e-13, max_iter=10_000
    )
    return tuple(result)


def test_gradients_of_every_output_against_finite_differences(device):
    inputs = (points(2, 4, seed=0), points(2, 3, seed=1), points(4, 3, seed=2).abs())
    assert torch.autograd.gradcheck(outputs, [t.to(device).requires_grad_() for t in inputs])


def test_gradients_against_the_unrolled_reference(device):
    a, b, cost = (t.to(device) for t in problem(7, 5, seed=4))
    mix = points(7, 5, seed=5).to(device)

    def gradients(solve, **settings):
        inputs = [t.clone().requires_grad_() for t in (a, b, cost)]
        result = solve(*inputs, epsilon=0.2, **settings)
        loss = (result.plan * mix).sum() + result.f @ mix[:, 0] + result.g @ mix[0] + result.cost
        return torch.autograd.grad(loss, inputs)

    implicit = gradients(sinkhorn, tol=1e-13, max_iter=10_000)
    unrolled = gradients(log_sinkhorn, max_iter=1000)
    for ours, reference in zip(implicit, unrolled, strict=True):
        assert_close(ours - ours.mean(), reference - reference.mean(), atol=1e-8, rtol=1e-8)


def blocks(count: int, size: int) -> torch.Tensor:
    """Costs near 0 inside each of ``count`` blocks, near 1 between them."""
    inside = torch.block_diag(*[torch.ones(size, size)] * count).double()
    return 1 - inside + 0.02 * points(count * size, count * size, seed=count).abs()


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("cost", [SWAP, blocks(3, 2), blocks(2, 3), blocks(8, 1)])
def test_gradients_where_the_plan_falls_into_blocks(cost, dtype, tol, device):
    """Between blocks only exp(−1/0.015) of the mass moves: their potentials hardly know another.

    One such problem does not spoil its batch.
    """
    n = len(cost)
    uniform = torch.full((n,), 1 / n, dtype=torch.float64)
    costs = torch.stack([cost, 0.01 * points(n, n, seed=5)])
    direction = points(n, n, seed=6).to(device)

    def gradients(solve, dtype, **settings):
        given = [t.to(device, dtype, copy=True).requires_grad_() for t in (uniform, uniform, costs)]
        result = solve(*given, epsilon=0.015, **settings)
        both = result.cost.sum() + (result.plan * direction).sum()
        return [gradient.double() for gradient in torch.autograd.grad(both, given)]

    found = gradients(sinkhorn, dtype, tol=tol)
    expected = gradients(log_sinkhorn, torch.float64)
    for ours, unrolled in zip(found, expected, strict=True):
        difference = ours - unrolled
        difference -= difference.mean() * (ours.ndim == 1)  # a gradient in weights: up to this
        assert difference.abs().max() < 100 * tol * unrolled.abs().max().clamp_min(1)


def test_gradients_with_zero_weights_are_finite_and_right():
    a, b, cost = problem(6, 5, zeros=2)
    inputs = [t.requires_grad_() for t in (a, b, cost)]
    result = sinkhorn(*inputs, epsilon=0.3, tol=1e-13, max_iter=10_000)
    grad_a, grad_b, grad_cost = torch.autograd.grad(result.cost, inputs)
    for gradient in (grad_a, grad_b, grad_cost):
        assert gradient.isfinite().all()
    assert (grad_cost[:2] == 0).all()
    # Moving mass t from row 5 to the empty row 0 changes the cost at the rate grad_a says.
    t = 1e-6
    moved = a.detach().clone()
    moved[0] += t
    moved[5] -= t
    after = sinkhorn(moved, b.detach(), cost.detach(), epsilon=0.3, tol=1e-13, max_iter=10_000)
    assert_close(
        (after.cost - result.cost.detach()) / t, grad_a[0] - grad_a[5], atol=1e-4, rtol=1e-4
    )


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 9), m=st.integers(1, 9), e=st.floats(1, 20))
def test_two_transforms_change_nothing_at_the_solution(seed, n, m, e):
    a, b, cost = problem(n, m, seed=seed)
    result = sinkhorn(a, b, cost, epsilon=e, tol=1e-9, max_iter=10_000)
    g = soft_c_transform(result.f, a, cost, epsilon=e)
    assert_close(g, result.g, atol=1e-6 * (1 + e), rtol=1e-6)
    assert_close(result.plan.sum(1), a, atol=1e-8, rtol=0)
    # The plan costs at least the exact optimum, and at most as much as the product plan.
    assert exact_transport(a, b, cost).cost - 1e-7 <= result.cost
    assert result.cost <= (a[:, None] * b * cost).sum() + 1e-7
