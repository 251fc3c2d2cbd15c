"""Several games stacked: each column is its own network's, in value, gradient and training."""

import pytest
import torch

from companion.gan.losses import non_saturating_loss
from companion.gan.networks import Discriminator, Generator
from companion.gan.r1 import r1_penalty
from companion.gan.study.side_by_side import SideBySide
from companion.gan.training import train_gan


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def players(games):
    start = seeded()
    size = {"width": 5, "depth": 2, "generator": start}
    return (
        [Generator(3, 2, **size).double() for _ in range(games)],
        [Discriminator(2, **size).double() for _ in range(games)],
    )


def test_each_column_goes_through_its_own_network():
    generators, discriminators = players(4)
    noise = torch.randn(7, 4 * 3, generator=seeded(1), dtype=torch.float64)
    samples = SideBySide(generators)(noise)
    logits = SideBySide(discriminators)(samples)
    assert logits.shape == (7, 4)
    for game, (G, D) in enumerate(zip(generators, discriminators, strict=True)):
        alone = G(noise[:, 3 * game : 3 * game + 3])
        torch.testing.assert_close(samples[:, game], alone)
        torch.testing.assert_close(logits[:, game], D(alone))


def test_penalty_and_gradients_are_means_over_the_games():
    _, discriminators = players(4)
    stacked = SideBySide(discriminators)
    real = torch.randn(7, 4, 2, generator=seeded(1), dtype=torch.float64)
    total = stacked(real).mean() + r1_penalty(stacked, real, gamma=0.3 / 4)
    total.backward()
    alone = torch.stack(
        [
            D(real[:, game]).mean() + r1_penalty(D, real[:, game], gamma=0.3)
            for game, D in enumerate(discriminators)
        ]
    )
    torch.testing.assert_close(total, alone.mean())
    alone.mean().backward()
    for layer, (weight, bias) in enumerate(zip(stacked.weights, stacked.biases, strict=True)):
        for game, D in enumerate(discriminators):
            alone = D.layers[2 * layer]
            torch.testing.assert_close(weight.grad[game], alone.weight.grad.mT)
            torch.testing.assert_close(bias.grad[game, 0], alone.bias.grad)


def test_training_two_alike_games_is_training_one():
    """Adam forgets the factor 1/E, but for its epsilon; both games see the same numbers."""
    data = torch.randn(11, 2, generator=seeded(1), dtype=torch.float64)
    settings = {"loss": non_saturating_loss, "steps": 20, "batch_size": 8, "learning_rate": 1e-2}

    class SameNoise(SideBySide):
        def forward(self, x):
            return super().forward(x.repeat(1, 2) if x.ndim == 2 else x)

    (G,), (D,) = players(1)
    twice = SameNoise([G, G]), SideBySide([D, D])
    twice[0].latent_features = 3
    train_gan(
        *twice, data[:, None].expand(-1, 2, -1), gamma=0.1 / 2, generator_rng=seeded(2), **settings
    )
    train_gan(G, D, data, gamma=0.1, generator_rng=seeded(2), **settings)
    for layer, weight in enumerate(twice[0].weights):
        alone = G.layers[2 * layer].weight.mT
        torch.testing.assert_close(weight, alone.expand_as(weight), rtol=1e-4, atol=1e-5)


def test_no_network_is_refused():
    with pytest.raises(ValueError, match="networks: expected at least one, got none"):
        SideBySide([])
