"""Steps recomputed in plain torch; what each network sees and learns; resumption."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from companion.gan.images import ImageDiscriminator, ImageGenerator
from companion.gan.losses import hinge_loss, least_squares_loss, minimax_loss, non_saturating_loss
from companion.gan.networks import Discriminator, Generator
from companion.gan.samples import gaussian_ring
from companion.gan.training import GANStep, train_gan
from companion.training.precision import DTYPE, PrecisionPolicy

GAN = {"loss": non_saturating_loss}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def networks(seed=0):
    of = {"width": 7, "depth": 1, "generator": seeded(seed)}
    return Generator(3, 2, **of), Discriminator(2, **of)


def normalised():
    generator, discriminator = networks()
    generator.layers.insert(1, nn.BatchNorm1d(7))
    discriminator.layers.insert(1, nn.BatchNorm1d(7))
    return generator, discriminator


def plain_torch(g, d, data, *, steps, n_critic, gamma, rng):
    """The same training, written out with the same draws: seen losses."""
    of = {"lr": 0.01, "betas": (0.4, 0.9)}
    d_adam, g_adam = torch.optim.Adam(d.parameters(), **of), torch.optim.Adam(g.parameters(), **of)
    seen = []
    for _ in range(steps):
        for _ in range(n_critic):
            real = data[torch.randint(len(data), (5,), generator=rng)].requires_grad_()
            fake = g(torch.randn(5, 3, generator=rng).double()).detach()
            real_logits, fake_logits = d(real), d(fake)
            loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
            slopes = torch.autograd.grad(real_logits.sum(), real, create_graph=True)[0]
            penalty = gamma / 2 * sum(slope @ slope for slope in slopes) / 5
            d_adam.zero_grad()
            (loss + penalty).backward()
            d_adam.step()
        score = softplus(-d(g(torch.randn(5, 3, generator=rng).double()))).mean()
        g_adam.zero_grad()
        score.backward()
        g_adam.step()
        seen.append(torch.stack([loss, penalty, score]).detach())
    return torch.stack(seen, dim=1)


@pytest.mark.parametrize(("build", "gamma"), [(networks, 0.3), (networks, 0.0), (normalised, 0.0)])
def test_steps_against_plain_torch(build, gamma):
    """Weights, running statistics and losses; real and fake have batch statistics of their own."""
    generator, discriminator = (network.double() for network in build())
    g, d = copy.deepcopy((generator, discriminator))
    data = gaussian_ring(13, generator=seeded()).double()
    of = {"n_critic": 2, "gamma": gamma}
    expected = plain_torch(g, d, data, steps=2, rng=seeded(7), **of)
    of |= {"batch_size": 5, "learning_rate": 0.01, "betas": (0.4, 0.9)}
    of |= {"generator_rng": seeded(7), **GAN}
    history = train_gan(generator, discriminator, data, steps=2, **of)
    # A shift before a normalisation has the gradient 0: its rounding, over Adam's ε, is seen.
    close = {"rtol": 1e-9, "atol": 1e-8}
    torch.testing.assert_close(torch.stack(history[:3]), expected, **close)
    torch.testing.assert_close(generator.state_dict(), g.state_dict(), **close)
    torch.testing.assert_close(discriminator.state_dict(), d.state_dict(), **close)


def test_discriminator_gets_no_gradient_from_fakes_and_none_at_the_generators_step():
    generator, discriminator = networks()
    seen, before, weights = [], {}, list(discriminator.parameters())

    def look(_, inputs):
        seen.append(inputs[0].requires_grad)
        if inputs[0].requires_grad:  # the generator's step: the discriminator's is over
            before.update({p: (p.detach().clone(), p.grad.clone()) for p in weights})

    discriminator.register_forward_pre_hook(look)
    GANStep(generator, discriminator, torch.randn(11, 2, generator=seeded()), **GAN)(0)
    assert seen == [False, False, True]
    assert all(torch.equal(before[p][0], p) and torch.equal(before[p][1], p.grad) for p in weights)


@pytest.mark.parametrize("ema", [0.75, 0.0])
def test_averaged_generator_by_hand(ema):
    """w₁, then β·w̄ + (1 − β)·w, running statistics alike; a network of its own, for use only."""
    generator, discriminator = normalised()
    step = GANStep(generator, discriminator, torch.randn(11, 2), **GAN, ema=ema, learning_rate=0.1)
    for i in range(3):
        step(i)
        now = {k: v.clone() for k, v in generator.state_dict().items() if v.is_floating_point()}
        mean = now if i == 0 else {k: ema * mean[k] + (1 - ema) * v for k, v in now.items()}
    averaged = step.averaged
    got = {k: v for k, v in averaged.state_dict().items() if k in mean}
    torch.testing.assert_close(got, mean)
    assert (generator.training, averaged.training) == (True, False)
    assert averaged.latent_features == 3
    noise = torch.randn(5, 3, generator=seeded())
    assert not averaged(noise).requires_grad
    torch.testing.assert_close(averaged(noise[:1]), averaged(noise)[:1])
    assert train_gan(generator, discriminator, torch.ones(9, 2), steps=0, **GAN).averaged is None


def test_labels_stay_with_their_samples_and_fakes_get_labels_of_the_data(device):
    labels = torch.tensor([2, 5, 5, 5] * 8, device=device)
    data = labels[:, None, None, None].expand(-1, 1, 4, 4) / 10
    size = {"size": 4, "width": 3, "levels": 1, "num_classes": 7}
    generator = ImageGenerator(5, **size).to(device)
    discriminator = ImageDiscriminator(**size, batch_norm=False).to(device)
    asked, seen = [], []
    generator.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1]))
    discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    of = {"labels": labels, "gamma": 1.0, "batch_size": 400, "generator_rng": seeded()}
    train_gan(generator, discriminator, data, steps=1, **GAN, **of)
    real, fake, penalised, fake_again = seen
    for x, y in (real, penalised):
        assert torch.equal(x[:, 0, 0, 0], y / 10)
    assert torch.equal(real[1], penalised[1])
    for (_, y), z in zip((fake, fake_again), asked, strict=True):
        assert torch.equal(y, z)
        assert y.unique().tolist() == [2, 5]
        assert (y == 2).float().mean().item() == pytest.approx(0.25, abs=0.11)  # 5 deviations
        assert not torch.equal(y, real[1])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_train_as_32_do(precision, device):
    data = gaussian_ring(50, generator=seeded()).to(device)

    def losses(policy):
        generator, discriminator = (network.to(device) for network in networks(1))
        logits = []
        discriminator.register_forward_hook(lambda _, inputs, output: logits.append(output.dtype))
        of = {"gamma": 0.5, "learning_rate": 1e-3, "generator_rng": seeded(), "precision": policy}
        history = train_gan(generator, discriminator, data, **GAN, steps=9, **of)
        return torch.stack(history[:3]), logits[-4:]

    scaler = torch.amp.GradScaler(device, init_scale=2.0**9) if precision == "fp16" else None
    expected, _ = losses(None)
    got, logits = losses(PrecisionPolicy(precision, device, scaler=scaler))
    assert logits == [DTYPE[precision]] * 2 + [torch.float32, DTYPE[precision]]  # R1 is the third
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)
    assert not torch.equal(got, expected)


@pytest.mark.parametrize("loss", [minimax_loss, least_squares_loss, hinge_loss])
def test_a_generator_learns_a_shift(loss):
    data = 2 + 0.5 * torch.randn(256, 1, generator=seeded())
    generator = Generator(1, 1, width=8, depth=1, generator=seeded())
    discriminator = Discriminator(1, width=16, depth=1, generator=seeded(1))
    noise = torch.randn(256, 1, generator=seeded(2))
    of = {"gamma": 1.0, "learning_rate": 1e-2, "ema": 0.95, "generator_rng": seeded(3)}
    of |= {"evaluate": lambda: abs(generator(noise).mean().item() - 2), "evaluate_every": 90}
    history = train_gan(generator, discriminator, data, loss=loss, steps=200, **of)
    assert list(history.evaluations) == [0, 90, 180, 200]
    assert history.evaluations[0] > 1
    assert abs(history.averaged(noise).mean().item() - 2) < 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"n_critic": 0}, "n_critic must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
        ({"gamma": -1.0}, "gamma must be a finite number of at least 0, got -1"),
        ({"ema": 1.0}, "ema must be less than 1, got 1"),
        ({"betas": (0.5, -1.0)}, "betas must be a finite number of at least 0, got -1"),
        ({"betas": (0.5,)}, "betas: expected two numbers, got 1"),
        ({"data": torch.ones(0, 2)}, r"data: expected at least one sample, got shape \(0, 2\)"),
        ({"labels": torch.tensor([0, 1])}, r"labels: expected shape \(9,\), got \(2,\)"),
    ],
)
def test_train_gan_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_gan(*networks(), **{"data": torch.ones(9, 2), "steps": 1, **GAN, **arguments})


def test_a_penalty_with_batch_normalisation_is_refused():
    images = torch.zeros(9, 1, 8, 8)
    sizes = {"steps": 1, "gamma": 0.5, **GAN}
    with pytest.raises(ValueError, match=r"gamma must be 0 with .* batch norm.*, got 0\.5"):
        train_gan(ImageGenerator(3, width=2), ImageDiscriminator(width=2), images, **sizes)
    plain = ImageDiscriminator(width=2, batch_norm=False)
    train_gan(ImageGenerator(3, width=2), plain, images, **sizes)
