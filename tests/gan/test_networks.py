"""The perceptrons: shapes, initial weights, independence of the samples."""

import pytest
import torch
from torch import nn

from companion.gan.networks import Discriminator, Generator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_hidden_layer_by_hand():
    """relu(x) + relu(−x) + 0.5 = |x| + 0.5."""
    discriminator = Discriminator(1, width=2, depth=1)
    first, _, last = discriminator.layers
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        last.weight.fill_(1.0)
        last.bias.fill_(0.5)
    x = torch.tensor([[-3.0], [0.0], [2.0]])
    torch.testing.assert_close(discriminator(x), torch.tensor([3.5, 0.5, 2.5]))


def test_discriminator_flattens_every_axis_but_the_first(device):
    discriminator = Discriminator(2 * 3 * 5, width=7, depth=2).to(device)
    images = torch.randn(11, 2, 3, 5, device=device)
    logits = discriminator(images)
    assert logits.shape == (11,)
    torch.testing.assert_close(logits, discriminator(images.reshape(11, 30)))
    torch.testing.assert_close(logits[:1], discriminator(images[:1]))
    assert discriminator(images[:0]).shape == (0,)


def test_generator_gives_samples_of_the_asked_shape(device):
    noise = torch.randn(11, 3, device=device)
    assert Generator(3, 5, width=7, depth=1).to(device)(noise).shape == (11, 5)
    images = Generator(3, (1, 8, 8), width=7, depth=2).to(device)
    assert images(noise).shape == (11, 1, 8, 8)
    assert images(noise[:0]).shape == (0, 1, 8, 8)


def test_initial_weights_have_he_variance_and_zero_biases():
    layers = [m for m in Generator(300, 400, width=500, depth=1).modules() if type(m) is nn.Linear]
    for layer, inputs in zip(layers, (300, 500), strict=True):
        assert layer.weight.var().item() == pytest.approx(2 / inputs, rel=0.03)
        assert not layer.bias.any()


@pytest.mark.parametrize("build", [Discriminator, lambda i, **kw: Generator(i, 2, **kw)])
def test_weights_come_from_the_generator_alone(build):
    before = torch.get_rng_state()
    one, same, other = (build(3, width=5, depth=2, generator=seeded(s)) for s in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one.parameters(), same.parameters()))
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Discriminator(0, width=1, depth=1), "in_features must be at least 1, got 0"),
        (lambda: Discriminator(2, width=1, depth=-1), "depth must be at least 0, got -1"),
        (lambda: Generator(2, (3, 0), width=1, depth=1), "out_features must be at least 1, got 0"),
        (lambda: Discriminator(3, width=1, depth=0)(torch.ones(5, 2)), r"numbers, got shape \(5,"),
        (lambda: Generator(3, 1, width=1, depth=0)(torch.ones(5, 2)), r"\(B, 3\), got \(5, 2\)"),
    ],
)
def test_impossible_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
