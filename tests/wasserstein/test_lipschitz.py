"""Clipping, the gradient penalty and the measured slope against closed forms."""

import ot
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from companion.wasserstein.lipschitz import (
    clip_weights_,
    gradient_norms,
    gradient_penalty,
    lipschitz_estimate,
)
from companion.wasserstein.networks import Critic

SHAPES = [(11, 3), (11, 2, 3), (11, 2, 3, 5)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def linear(w):
    """The critic f(x) = ⟨w, x⟩ over all axes; its gradient is w everywhere."""
    return lambda x: (x * w).flatten(1).sum(1)


# --- clipping ---------------------------------------------------------------------------------


def test_clipping_by_hand():
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, -0.05, -7.0]]))
        layer.bias.fill_(2.0)
    storage = layer.weight.data_ptr()
    assert clip_weights_(layer, 0.1) is None
    torch.testing.assert_close(layer.weight, nn.Parameter(torch.tensor([[0.1, -0.05, -0.1]])))
    torch.testing.assert_close(layer.bias, nn.Parameter(torch.tensor([0.1])))
    assert layer.weight.data_ptr() == storage
    assert layer.weight.requires_grad
    assert layer.weight.grad_fn is None


def test_clipped_perceptron_has_the_slope_of_its_corner():
    """‖W‖₂ ≤ c·√(I·O): the bound on the slope is c³·√(3·7)·√(7·7)·√(7·1) for these sizes."""
    critic = Critic(3, width=7, depth=2)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(9.0)
    clip_weights_(critic, 0.1)
    x = normal(13, 3, dtype=torch.float32).abs() + 1
    bound = 0.1**3 * (3 * 7 * 7 * 7 * 7) ** 0.5
    # All weights equal: the gradient is c³·7·7·(1, 1, 1), which meets the bound.
    torch.testing.assert_close(gradient_norms(critic, x), torch.full((13,), bound))


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_clipping_needs_a_positive_limit(limit):
    with pytest.raises(ValueError, match="limit must be positive, got"):
        clip_weights_(nn.Linear(2, 2), limit)


# --- gradient norms and penalty ---------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["fp32", "fp64"]
)
def test_penalty_of_a_linear_critic(shape, dtype, rtol, device):
    """weight · (‖w‖ − 1)², with the norm over all axes but the batch."""
    w, real, fake = (normal(*shape, seed=s, dtype=dtype).to(device) for s in range(3))
    w = w[0]
    penalty = gradient_penalty(linear(w), real, fake, weight=3.0)
    expected = 3.0 * (w.square().sum().sqrt() - 1) ** 2
    torch.testing.assert_close(penalty, expected, rtol=rtol, atol=0)
    assert penalty.dtype == dtype


def test_default_weight_is_ten():
    x = torch.zeros(5, 1)
    assert gradient_penalty(lambda x: 3 * x[:, 0], x + 1, x).item() == pytest.approx(40.0)


def test_penalty_of_the_distance_to_a_point_is_zero():
    critic = lambda x: (x - 7.0).norm(dim=1)  # noqa: E731
    penalty = gradient_penalty(critic, normal(11, 3), normal(11, 3, seed=1))
    torch.testing.assert_close(penalty, torch.zeros((), dtype=torch.float64), atol=1e-28, rtol=0)


@pytest.mark.parametrize("shape", [(2000, 3), (2000, 2, 3, 5)])
def test_one_uniform_mix_per_sample(shape):
    real, fake = normal(*shape), normal(*shape, seed=1)
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    gradient_penalty(critic, real, fake, generator=seeded(2))
    (mixed,) = seen
    rays, steps = (real - fake).flatten(1), (mixed - fake).flatten(1)
    t = (rays * steps).sum(1) / rays.square().sum(1)
    torch.testing.assert_close(steps, t[:, None] * rays)  # on the segment: one t for all axes
    assert t.unique().numel() > 1900  # not one t for the batch
    assert t.min() >= 0
    assert t.max() <= 1
    assert kstest(t.numpy(), "uniform").pvalue > 0.01


def test_gradient_of_the_penalty_of_a_linear_critic():
    """d/dw λ(‖w‖ − 1)² = 2λ(‖w‖ − 1) w/‖w‖."""
    w = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    gradient_penalty(linear(w), normal(11, 2), normal(11, 2, seed=1), weight=0.5).backward()
    torch.testing.assert_close(w.grad, 2 * 0.5 * 4 * w.detach() / 5)


def test_second_derivatives_by_finite_differences():
    real, fake = normal(5, 3), normal(5, 3, seed=1)

    def penalty(a, b):
        return gradient_penalty(lambda x: (x @ a).tanh() @ b, real, fake, generator=seeded(2))

    weights = [normal(3, 7, seed=3).requires_grad_(), normal(7, seed=4).requires_grad_()]
    assert torch.autograd.gradcheck(penalty, weights)


def test_penalty_of_a_convolutional_critic_sample_by_sample():
    critic = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 2 * 3, 1)
    ).double()
    real, fake = normal(7, 2, 4, 5), normal(7, 2, 4, 5, seed=1)
    seen = []
    penalty = gradient_penalty(lambda x: (seen.append(x), critic(x))[1], real, fake)
    squares = []
    for x in seen[0].detach():
        x = x[None].requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).squeeze(), x)
        squares.append((sum(g**2 for g in gradient.flatten().tolist()) ** 0.5 - 1) ** 2)
    assert penalty.item() == pytest.approx(10 * sum(squares) / 7, rel=1e-9)


def test_zero_gradient_gives_no_nan():
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(linear(w), normal(5, 3), normal(5, 3, seed=1))
    penalty.backward()
    assert penalty.item() == 10.0
    assert torch.equal(w.grad, torch.zeros_like(w))


def test_one_dead_sample_does_not_spoil_the_others():
    critic = Critic(1, width=1, depth=1).double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.copy_(torch.tensor(2.0 if parameter.ndim == 2 else 0.0))
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)  # relu is dead at −1
    penalty = gradient_penalty(critic, x, x, weight=1.0)
    penalty.backward()
    assert penalty.item() == ((0 - 1) ** 2 + (4 - 1) ** 2) / 2
    # f = 2·relu(2x): the live half contributes (w₁w₂ − 1)²/2, whose derivative is (4 − 1)·2.
    assert critic.layers[0].weight.grad.item() == pytest.approx(6.0)


@pytest.mark.parametrize("enabled", [True, False])
def test_gradient_mode_is_left_as_it_was(enabled):
    critic = Critic(3, width=5, depth=1)
    real, fake = normal(7, 3, dtype=torch.float32), torch.zeros(7, 3)
    with torch.set_grad_enabled(enabled):
        penalty = gradient_penalty(critic, real, fake, generator=seeded())
        assert torch.is_grad_enabled() is enabled
    assert penalty.requires_grad is enabled
    with_gradients = gradient_penalty(critic, real, fake, generator=seeded())
    torch.testing.assert_close(penalty, with_gradients)


def test_no_gradient_reaches_the_samples_or_the_generator():
    real, fake = normal(5, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    w = normal(3, seed=2).requires_grad_()
    # A curved critic: the slope of a linear one would not depend on the samples at all.
    gradient_penalty(lambda x: x.square() @ w, real, fake).backward()
    assert real.grad is None
    assert fake.grad is None
    assert w.grad is not None


@pytest.mark.parametrize(
    ("real", "fake"),
    [((5, 1, 8, 8), (5, 64)), ((5, 2), (1, 2)), ((5, 2), (7, 2)), ((0, 2), (0, 2))],
)
def test_penalty_refuses_shapes_that_would_broadcast(real, fake):
    with pytest.raises(ValueError, match=r"one shape and at least one sample, got \("):
        gradient_penalty(linear(1.0), torch.ones(real), torch.zeros(fake))


def test_mixing_weights_come_from_the_generator_alone(device):
    critic = Critic(3, width=5, depth=1, generator=seeded()).to(device)
    real, fake = torch.ones(7, 3, device=device), torch.zeros(7, 3, device=device)
    # A critic without kinks would not see where the mix fell.
    square = lambda x: critic(x).square()  # noqa: E731
    before = torch.get_rng_state()
    one, same, other = (
        gradient_penalty(square, real, fake, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# --- measured slope ---------------------------------------------------------------------------


def test_slope_by_hand():
    x, y = torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [3.0]])
    # f = x²: slopes 1 and 3 from 0, 5 and 7 from 4.
    assert lipschitz_estimate(lambda z: z[:, 0].square(), x, y).item() == 7.0


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 5)])
def test_slope_against_a_loop_over_all_pairs(column, shape, device):
    critic = Critic(torch.Size(shape).numel(), width=13, depth=2).double().to(device)
    x, y = normal(7, *shape).to(device), normal(11, *shape, seed=1).to(device)
    fx, fy = critic(x), critic(y)
    slopes = [
        (abs(fx[i] - fy[j]) / (x[i] - y[j]).norm()).item() for i in range(7) for j in range(11)
    ]
    scores = (lambda z: critic(z)[:, None]) if column else critic
    assert lipschitz_estimate(scores, x, y).item() == pytest.approx(max(slopes), rel=1e-12)


def test_coincident_points_are_ignored():
    x = torch.tensor([[0.0], [1.0]])
    assert lipschitz_estimate(lambda z: 3 * z[:, 0], x, x).item() == 3.0


def test_no_two_different_points():
    with pytest.raises(ValueError, match="expected two points that differ, got none"):
        lipschitz_estimate(linear(1.0), torch.ones(3, 2), torch.ones(5, 2))


def test_slope_far_from_the_origin():
    """Points 1/8 apart near 1000, exact in float32; ‖x‖² + ‖y‖² − 2⟨x, y⟩ would lose them."""
    x = 1000 + torch.arange(40.0)[:, None] / 4
    y = x + 1 / 8
    # Every pair has slope 2 exactly.
    assert lipschitz_estimate(lambda z: 2 * (z[:, 0] - 1000), x, y).item() == 2.0


@pytest.mark.parametrize("seed", range(10))
def test_quotient_of_gap_and_slope_is_a_lower_bound_of_w1(seed):
    x, y = normal(31, 2, seed=seed), normal(37, 2, seed=seed + 100) + 1
    critic = Critic(2, width=17, depth=2, generator=seeded(seed)).double()
    with torch.no_grad():
        gap = (critic(x).mean() - critic(y).mean()).abs()
    exact = ot.emd2([], [], torch.cdist(x, y).numpy())
    bound = (gap / lipschitz_estimate(critic, x, y)).item()
    assert 0 < bound <= exact * (1 + 1e-12)


def test_the_bound_is_met_by_an_optimal_potential():
    x = normal(31, 2)
    y = x + torch.tensor([3.0, 4.0])
    critic = linear(torch.tensor([-0.6, -0.8], dtype=torch.float64))
    gap = critic(x).mean() - critic(y).mean()
    torch.testing.assert_close(gap / lipschitz_estimate(critic, x, y), torch.tensor(5.0).double())
