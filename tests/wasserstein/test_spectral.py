"""Spectral normalisation against PyTorch's and against a singular value decomposition."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from companion.wasserstein.lipschitz import lipschitz_estimate
from companion.wasserstein.networks import Critic
from companion.wasserstein.spectral import SpectralNorm, spectral_normalise_

LAYERS = [
    (lambda: nn.Linear(5, 7), (3, 5)),
    (lambda: nn.Conv1d(2, 3, 5), (3, 2, 11)),
    (lambda: nn.Conv2d(2, 3, (3, 5)), (3, 2, 7, 11)),
    (lambda: nn.Conv3d(2, 3, 2), (3, 2, 5, 7, 3)),
    (lambda: nn.ConvTranspose1d(2, 3, 5), (3, 2, 11)),
    (lambda: nn.ConvTranspose2d(2, 3, (3, 5)), (3, 2, 7, 11)),
    (lambda: nn.ConvTranspose3d(2, 3, 2), (3, 2, 5, 7, 3)),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("build", "shape"), LAYERS)
@pytest.mark.parametrize("iterations", [1, 3])
def test_same_as_pytorch_for_three_training_steps(build, shape, iterations, device):
    torch.manual_seed(0)
    plain = build().double().to(device)
    ours, theirs = copy.deepcopy(plain), copy.deepcopy(plain)
    spectral_normalise_(ours, iterations=iterations)
    parametrizations.spectral_norm(theirs, n_power_iterations=iterations)
    norm, peer = ours.parametrizations.weight[0], theirs.parametrizations.weight[0]
    norm.u_O.copy_(peer._u)
    norm.v_I.copy_(peer._v)
    x = torch.randn(*shape, dtype=torch.float64, device=device)
    for _ in range(3):
        outputs = []
        for layer in (ours, theirs):
            layer.zero_grad()
            y = layer(x) + layer(2 * x)  # two forward passes before one backward pass
            y.square().sum().backward()
            outputs.append(y.detach())
        torch.testing.assert_close(*outputs)
        gradients = [layer.parametrizations.weight.original.grad for layer in (ours, theirs)]
        torch.testing.assert_close(*gradients)
        for layer in (ours, theirs):
            with torch.no_grad():
                original = layer.parametrizations.weight.original
                original -= 0.01 * original.grad
    torch.testing.assert_close(norm.u_O, peer._u)
    torch.testing.assert_close(norm.v_I, peer._v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_norm(dtype, device):
    layer = nn.Linear(5, 7).to(device)
    spectral_normalise_(layer, generator=seeded())
    same = copy.deepcopy(layer)
    with torch.autocast(device, dtype=dtype):
        inside = layer.weight
        assert layer(torch.ones(3, 5, device=device)).dtype == dtype
    assert torch.equal(inside, same.weight)


@pytest.mark.parametrize(("build", "shape"), LAYERS)
def test_power_iteration_reaches_the_largest_singular_value(build, shape):
    layer = build().double()
    outputs_axis = 1 if "Transpose" in type(layer).__name__ else 0
    original = layer.weight.detach().clone()
    sigma = torch.linalg.matrix_norm(original.movedim(outputs_axis, 0).flatten(1), ord=2)
    spectral_normalise_(layer, generator=seeded())
    for _ in range(500):
        weight = layer.weight
    torch.testing.assert_close(weight, original / sigma, rtol=1e-6, atol=0)


def test_u_and_v_move_in_training_only():
    layer = nn.Linear(5, 7)
    spectral_normalise_(layer)
    norm = layer.parametrizations.weight[0]
    with torch.no_grad():
        layer.parametrizations.weight.original.normal_(generator=seeded())
    before = norm.v_I.clone()
    layer.eval()(torch.zeros(1, 5))
    assert torch.equal(norm.v_I, before)
    layer.train()(torch.zeros(1, 5))
    assert not torch.equal(norm.v_I, before)


def test_normalised_perceptron_is_1_lipschitz():
    critic = Critic(3, width=17, depth=2)
    spectral_normalise_(critic)
    x, y = torch.randn(100, 3, generator=seeded()), torch.randn(100, 3, generator=seeded(1))
    for _ in range(200):
        critic(x)
    assert 0 < lipschitz_estimate(critic.eval(), x, y) <= 1.0001


def test_bias_is_left_alone_and_weight_stays_trainable():
    layer = nn.Linear(5, 7)
    bias = layer.bias.detach().clone()
    spectral_normalise_(layer)
    assert torch.equal(layer.bias, bias)
    names = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert names == {"bias", "parametrizations.weight.original"}


def test_state_dict_carries_the_normalised_critic_over():
    saved, fresh = (Critic(3, width=7, depth=2, generator=seeded(s)) for s in (0, 1))
    for critic in (saved, fresh):
        spectral_normalise_(critic)
    x = torch.randn(11, 3)
    saved(x)
    fresh.load_state_dict(saved.state_dict())
    torch.testing.assert_close(fresh.eval()(x), saved.eval()(x), rtol=0, atol=0)
    for key in ("u_O", "v_I"):
        assert f"layers.0.parametrizations.weight.0.{key}" in saved.state_dict()


def test_first_vectors_come_from_the_generator_alone():
    weight = torch.eye(5)  # every vector is singular, so the first one stays
    before = torch.get_rng_state()
    one, same, other = (SpectralNorm(weight, generator=seeded(s)).v_I for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_normalising_twice_is_an_error_and_changes_nothing():
    critic = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
    spectral_normalise_(critic[2])
    with pytest.raises(RuntimeError, match="already parametrized"):
        spectral_normalise_(critic)
    assert not nn.utils.parametrize.is_parametrized(critic[0])


def test_nothing_to_normalise():
    with pytest.raises(ValueError, match="linear or convolutional layers, got none"):
        spectral_normalise_(nn.ReLU())


def test_no_iterations():
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        spectral_normalise_(nn.Linear(2, 2), iterations=0)
