"""The critic is chapter 01's discriminator; tests/gan/test_networks.py looks inside."""

import pytest
import torch

from companion import gan, wasserstein


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_chapter_02_has_the_generator_of_chapter_01():
    assert wasserstein.Generator is gan.Generator


def test_critic_has_the_weights_and_the_names_of_a_discriminator():
    """The names are those in the checkpoints of earlier versions."""
    before = torch.get_rng_state()
    critic = wasserstein.Critic(3, width=7, depth=1, generator=seeded())
    expected = gan.Discriminator(3, width=7, depth=1, generator=seeded()).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    names = ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert list(critic.state_dict()) == names
    for name in names:
        assert torch.equal(critic.state_dict()[name], expected[name])


def test_linear_critic_by_hand():
    critic = wasserstein.Critic(3, width=5, depth=0)
    (layer,) = critic.layers
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
        layer.bias.fill_(0.5)
    x = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, -1.0]])
    torch.testing.assert_close(critic(x), torch.tensor([2.5, -6.5]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: wasserstein.Critic(0, width=1, depth=1), "in_features must be at least 1, got 0"),
        (lambda: wasserstein.Critic(2, width=1, depth=-1), "depth must be at least 0, got -1"),
    ],
)
def test_impossible_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
