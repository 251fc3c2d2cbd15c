"""R1 against gradients taken by hand."""

import pytest
import torch

from companion.gan.images import ImageDiscriminator
from companion.gan.r1 import r1_penalty


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_linear_discriminator_by_hand(device):
    """D(x) = ⟨w, x⟩ + b has the gradient w everywhere: γ/2 · (1 + 4 + 9)."""
    w, real = torch.tensor([1.0, -2.0, 3.0], device=device), torch.randn(5, 3, device=device)
    with torch.no_grad():
        penalty = r1_penalty(lambda x: x @ w + 7, real, gamma=0.5)
        assert not torch.is_grad_enabled()
    assert not real.requires_grad
    torch.testing.assert_close(penalty, torch.tensor(3.5, device=device))


def test_quadratic_discriminator_by_hand():
    """D(x) = a‖x‖² has the gradient 2a·x: γ/2 · 4a² · mean ‖x‖², and 4γa · mean ‖x‖² in a."""
    a = torch.tensor(1.5, requires_grad=True)
    real = torch.tensor([[[1.0, 2.0, 0.0]], [[0.0, -1.0, 3.0]]])  # ‖x‖²: 5 and 10
    penalty = r1_penalty(lambda x: a * x.square().sum((1, 2)), real, gamma=0.2)
    assert penalty.item() == pytest.approx(0.1 * 4 * 1.5**2 * 7.5, rel=1e-6)
    (slope,) = torch.autograd.grad(penalty, a)
    assert slope.item() == pytest.approx(4 * 0.2 * 1.5 * 7.5, rel=1e-6)


@pytest.mark.parametrize(("batch_norm", "own"), [(False, True), (True, False)])
def test_penalty_of_a_batch_is_the_mean_over_its_samples(batch_norm, own):
    """With batch normalisation it is not: why the discriminator of an R1 run has none."""
    size = {"channels": 3, "size": 4, "width": 5, "levels": 2, "num_classes": 7}
    discriminator = ImageDiscriminator(**size, batch_norm=batch_norm, generator=seeded())
    for weight in discriminator.parameters():
        weight.data *= 20  # else the slopes are of 1e-4
    real = torch.randn(11, 3, 4, 4, generator=seeded(1))
    labels = torch.arange(11) % 7

    def penalty(i):
        return r1_penalty(lambda x: discriminator(x, labels[i]), real[i], gamma=3.0)

    halves = torch.stack([penalty(slice(0, 5)), penalty(slice(5, 11))])
    mean = (halves * torch.tensor([5 / 11, 6 / 11])).sum()
    assert (abs(penalty(slice(None)) / mean - 1) < 1e-5) == own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"gamma": -1.0}, "gamma must be a finite number of at least 0, got -1"),
        ({"real": torch.ones(0, 3)}, r"real: expected at least one sample, got shape \(0, 3\)"),
        ({"discriminator": lambda x: x.sum(0)}, r"shape \(5, …\), got \(3,\)"),
    ],
)
def test_r1_refuses(words, message):
    arguments = {"discriminator": lambda x: x.sum(1), "real": torch.ones(5, 3), "gamma": 1.0}
    with pytest.raises(ValueError, match=message):
        r1_penalty(**arguments | words)
