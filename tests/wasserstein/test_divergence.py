"""The Sinkhorn divergence: closed forms, positivity, gradients, limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from companion.wasserstein import exact_transport, sinkhorn, sinkhorn_divergence
from tests.wasserstein.instances import points


@pytest.mark.parametrize("p", [1, 1.5, 2])
@pytest.mark.parametrize("epsilon", [5.0, 0.1, 1e-3])
def test_between_two_points_it_is_distance_to_the_p(p, epsilon, device):
    x, y = torch.tensor([[0.0, 0.0]]).to(device), torch.tensor([[3.0, 4.0]]).to(device)
    assert_close(sinkhorn_divergence(x, y, epsilon=epsilon, p=p).item(), 5.0**p, rtol=1e-6, atol=0)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), epsilon=st.floats(2, 20), n=st.integers(1, 9))
def test_translation_costs_its_squared_length_at_every_epsilon(seed, epsilon, n):
    # |x − y − t|² = |x − y|² − 2 t·(x − y) + |t|²; the middle term has mean 0 under any plan.
    x, shift = 0.5 * points(n, 2, seed=seed), points(1, 2, seed=seed + 1)
    divergence = sinkhorn_divergence(x, x + shift, epsilon=epsilon, tol=1e-10, max_iter=10_000)
    assert_close(divergence, shift.square().sum(), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("p", [1, 2])
def test_the_value_is_the_entropic_minimum(p):
    x, y = points(6, 2, seed=0), points(4, 2, seed=1)

    def minimum(x, y):  # from the primal side: <Γ, C> + ε KL(Γ | a⊗b)
        a, b = (torch.full((len(t),), 1 / len(t)).double() for t in (x, y))
        cost = (x[:, None] - y).norm(dim=-1) ** p
        plan = sinkhorn(a, b, cost, epsilon=0.5, tol=1e-12, max_iter=10_000).plan
        return (plan * cost).sum() + 0.5 * torch.xlogy(plan, plan * len(x) * len(y)).sum()

    expected = minimum(x, y) - (minimum(x, x) + minimum(y, y)) / 2
    assert_close(sinkhorn_divergence(x, y, epsilon=0.5, p=p, tol=1e-12, max_iter=10_000), expected)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31), n=st.integers(1, 7), m=st.integers(1, 7), p=st.sampled_from([1, 2])
)
def test_positive_symmetric_and_zero_only_for_equal_samples(seed, n, m, p):
    x, y = points(n, 2, seed=seed), points(m, 2, seed=seed + 1)
    options = {"epsilon": 1.0, "p": p, "tol": 1e-10, "max_iter": 10_000}
    divergence = sinkhorn_divergence(x, y, **options)
    assert divergence > 1e-4  # independent clouds are never equal
    assert_close(divergence, sinkhorn_divergence(y, x, **options), atol=1e-8, rtol=1e-8)
    assert abs(sinkhorn_divergence(x, x.clone(), **options)) < 1e-9
    assert abs(sinkhorn_divergence(x, x.flip(0), **options)) < 1e-9


def test_without_the_correction_equal_samples_are_not_at_zero():
    x = points(9, 2, seed=0)
    uniform = torch.full((9,), 1 / 9).double()
    assert sinkhorn(uniform, uniform, torch.cdist(x, x) ** 2, epsilon=1.0).cost > 0.1
    assert abs(sinkhorn_divergence(x, x.clone(), epsilon=1.0)) < 1e-12


@pytest.mark.parametrize("p", [1, 2])
def test_small_epsilon_gives_the_power_of_the_distance(p):
    x, y = points(7, 2, seed=0), points(7, 2, seed=1)
    uniform = torch.full((7,), 1 / 7).double()
    exact = exact_transport(uniform, uniform, (x[:, None] - y).norm(dim=-1) ** p).cost
    divergence = sinkhorn_divergence(x, y, epsilon=0.05, p=p, tol=1e-3, max_iter=10_000)
    assert_close(divergence, exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("p", [1, 2])
def test_gradients(p, device):
    x, y = points(5, 2, seed=0).to(device), points(4, 2, seed=1).to(device)

    def divergence(x, y):
        return sinkhorn_divergence(x, y, epsilon=1.0, p=p, tol=1e-12, max_iter=10_000)

    assert torch.autograd.gradcheck(divergence, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("p", [1, 2])
def test_gradient_at_equal_samples_is_zero_not_nan(p):
    x = points(5, 2, seed=0).requires_grad_()
    divergence = sinkhorn_divergence(x, x.detach().clone(), epsilon=0.5, p=p, tol=1e-12)
    (gradient,) = torch.autograd.grad(divergence, x)
    assert_close(gradient, torch.zeros_like(x), atol=1e-10, rtol=0)


def test_float32_points_far_from_the_origin_keep_their_small_distances():
    # torch.cdist by a matrix product would be wrong by up to 0.06 in each squared distance.
    x = (0.05 * points(60, 3, seed=0) + 300).float()
    divergence = sinkhorn_divergence(x, x + 0.01, epsilon=0.01)
    assert divergence.item() == pytest.approx(3e-4, rel=0.05)


def test_batch_dtype_and_strides(device):
    x, y = points(3 * 5, 2, seed=0).reshape(3, 5, 2), points(3 * 4, 2, seed=1).reshape(3, 4, 2)
    x, y = x.to(device), y.to(device)
    batch = sinkhorn_divergence(x, y, epsilon=1.0, tol=1e-10, max_iter=10_000)
    singles = [
        sinkhorn_divergence(r, s, epsilon=1.0, tol=1e-10, max_iter=10_000)
        for r, s in zip(x, y, strict=True)
    ]
    assert_close(batch, torch.stack(singles))
    assert_close(
        sinkhorn_divergence(x.mT.contiguous().mT, y, epsilon=1.0, tol=1e-10, max_iter=10_000), batch
    )
    single = sinkhorn_divergence(x.float(), y.float(), epsilon=1.0)
    assert (single.dtype, single.device) == (torch.float32, x.device)
    assert_close(single.double(), batch, atol=1e-5, rtol=1e-5)


def test_what_is_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"p: expected a number in \[1, 2\], got 3"):
        sinkhorn_divergence(x, x, epsilon=1, p=3)
    with pytest.raises(ValueError, match="expected equal d, got 2 and 3"):
        sinkhorn_divergence(x, torch.zeros(3, 3), epsilon=1)
    with pytest.raises(ValueError, match=r"y: expected shape .* got \(0, 2\)"):
        sinkhorn_divergence(x, torch.zeros(0, 2), epsilon=1)
    with pytest.raises(ValueError, match="epsilon must be"):
        sinkhorn_divergence(x, x, epsilon=0)


def test_a_run_cut_short_warns_at_the_callers_line():
    x, y = points(9, 2, seed=0), points(7, 2, seed=1)
    with pytest.warns(
        RuntimeWarning, match="stopped after 3 iterations with marginal error"
    ) as log:
        sinkhorn_divergence(x, y, epsilon=0.1, max_iter=3)
    assert log[0].filename == __file__


def test_equal_float32_samples_converge_at_small_epsilon_without_a_warning():
    x = points(200, 2, seed=0).float()
    for epsilon in (1.0, 0.1, 0.01):
        assert abs(sinkhorn_divergence(x, x.clone(), epsilon=epsilon)) < 1e-5
