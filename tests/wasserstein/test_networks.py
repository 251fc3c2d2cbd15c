"""The critic and the generator: shapes, initial weights, independence of the samples."""

import pytest
import torch
from torch import nn

from companion.wasserstein.networks import Critic, Generator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_linear_critic_by_hand():
    critic = Critic(3, width=5, depth=0)
    (layer,) = critic.layers
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
        layer.bias.fill_(0.5)
    x = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, -1.0]])
    torch.testing.assert_close(critic(x), torch.tensor([2.5, -6.5]))


def test_one_hidden_layer_by_hand():
    critic = Critic(1, width=2, depth=1)
    first, _, last = critic.layers
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        last.weight.copy_(torch.tensor([[1.0, 1.0]]))
    x = torch.tensor([[-3.0], [0.0], [2.0]])
    torch.testing.assert_close(critic(x), torch.tensor([3.0, 0.0, 2.0]))  # relu(x) + relu(−x) = |x|


def test_critic_flattens_every_axis_but_the_first(device):
    critic = Critic(2 * 3 * 5, width=7, depth=2).to(device)
    images = torch.randn(11, 2, 3, 5, device=device)
    assert critic(images).shape == (11,)
    torch.testing.assert_close(critic(images), critic(images.reshape(11, 30)))
    assert critic(images[:0]).shape == (0,)


def test_score_of_a_sample_does_not_depend_on_its_batch():
    critic = Critic(3, width=7, depth=2, generator=seeded())
    x = torch.randn(11, 3, generator=seeded(1))
    alone = torch.cat([critic(x[i : i + 1]) for i in range(11)])
    torch.testing.assert_close(critic(x), alone)


@pytest.mark.parametrize(("depth", "count"), [(0, 4), (1, 3 * 7 + 7 + 8), (2, 28 + 56 + 8)])
def test_parameter_count(depth, count):
    critic = Critic(3, width=7, depth=depth)
    assert sum(p.numel() for p in critic.parameters()) == count


def test_generator_gives_samples_of_the_asked_shape(device):
    noise = torch.randn(11, 3, device=device)
    assert Generator(3, 5, width=7, depth=1).to(device)(noise).shape == (11, 5)
    images = Generator(3, (1, 8, 8), width=7, depth=2).to(device)
    assert images(noise).shape == (11, 1, 8, 8)
    assert images(noise[:0]).shape == (0, 1, 8, 8)
    assert images.latent_features == 3


def test_initial_weights_have_he_variance_and_zero_biases():
    layers = [m for m in Generator(300, 400, width=500, depth=1).modules() if type(m) is nn.Linear]
    for layer, inputs in zip(layers, (300, 500), strict=True):
        assert layer.weight.var().item() == pytest.approx(2 / inputs, rel=0.03)
        assert not layer.bias.any()


@pytest.mark.parametrize("build", [Critic, lambda i, **kw: Generator(i, 2, **kw)])
def test_weights_come_from_the_generator_alone(build):
    before = torch.get_rng_state()
    one = build(3, width=5, depth=2, generator=seeded(4))
    same = build(3, width=5, depth=2, generator=seeded(4))
    other = build(3, width=5, depth=2, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Critic(0, width=1, depth=1), "in_features must be at least 1, got 0"),
        (lambda: Critic(2, width=0, depth=1), "width must be at least 1, got 0"),
        (lambda: Critic(2, width=1, depth=-1), "depth must be at least 0, got -1"),
        (lambda: Generator(0, 2, width=1, depth=1), "latent_features must be at least 1, got 0"),
        (lambda: Generator(2, (3, 0), width=1, depth=1), "out_features must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
