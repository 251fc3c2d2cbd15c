"""One step of the critic and of the generator: signs, schedules, and who is updated."""

import math

import pytest
import torch
from torch import nn

from companion.training.precision import PrecisionPolicy
from companion.wasserstein.networks import Critic, Generator
from companion.wasserstein.updates import (
    critic_loss,
    critic_step,
    critic_steps_at,
    generator_loss,
    generator_step,
    published_optimizer,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_critic(*weights):
    critic = Critic(len(weights), width=1, depth=0)
    with torch.no_grad():
        critic.layers[0].weight.copy_(torch.tensor([weights]))
    return critic


def policy(precision):
    """With a scale that these small examples do not overflow at."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if precision == "fp16" else None
    return PrecisionPolicy(precision, "cpu", scaler=scaler)


def weight_of(critic):
    return critic.layers[0].weight.detach()[0].clone()


def test_losses_by_hand():
    real, fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0, 4.0])
    assert critic_loss(real, fake).item() == 2.0 - 4.0
    assert generator_loss(fake).item() == -2.0


def test_published_schedule():
    steps = [critic_steps_at(step) for step in range(1001)]
    assert steps == [100] * 25 + [5] * 475 + [100] + [5] * 499 + [100]


def test_schedule_without_warm_up_and_with_a_short_one():
    assert {critic_steps_at(step, n_critic=3, warm_up=0) for step in range(1001)} == {3}
    assert [critic_steps_at(step, n_critic=3, warm_up=2) for step in (0, 1, 2, 500)] == [
        100,
        100,
        3,
        100,
    ]


def test_plain_gradient_ascent_on_a_linear_critic_by_hand():
    """The gradient of E f(real) − E f(fake) is the difference of the means, at every step."""
    critic = linear_critic(0.0, 0.0)
    sgd = torch.optim.SGD(critic.parameters(), lr=0.5)
    real, fake = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    for step in (1, 2, 3):
        loss, penalty = critic_step(critic, sgd, real, fake, constraint="spectral")
        torch.testing.assert_close(weight_of(critic), step * 0.5 * torch.tensor([2.0, 1.0]))
        assert loss.item() == -(step - 1) * 0.5 * 5
        assert penalty.item() == 0.0
        assert not loss.requires_grad


@pytest.mark.parametrize(("constraint", "weight"), [("penalty", 2.0), ("spectral", None)])
def test_penalty_enters_the_update_with_its_weight(constraint, weight):
    """On w: ascent on w·1 − λ(w − 1)², whose derivative at w = 3 is 1 − 4λ."""
    critic = linear_critic(3.0)
    sgd = torch.optim.SGD(critic.parameters(), lr=0.1)
    real, fake = torch.ones(5, 1), torch.zeros(5, 1)
    options = {} if weight is None else {"penalty_weight": weight}
    loss, penalty = critic_step(critic, sgd, real, fake, constraint=constraint, **options)
    slope = 1 - 4 * (weight or 0)
    assert weight_of(critic).item() == pytest.approx(3 + 0.1 * slope)
    assert loss.item() == pytest.approx(-3.0)
    assert penalty.item() == pytest.approx(4 * (weight or 0))


def test_clipping_comes_after_the_step():
    critic = linear_critic(0.0, 0.0, 0.02)
    sgd = torch.optim.SGD(critic.parameters(), lr=1.0)
    real, fake = torch.tensor([[1.0, -0.004, 0.0]]), torch.zeros(1, 3)
    loss, _ = critic_step(critic, sgd, real, fake, constraint="clip", clip_limit=0.01)
    torch.testing.assert_close(weight_of(critic), torch.tensor([0.01, -0.004, 0.01]))
    assert loss.item() == 0.0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_scores_have_16_bits_and_the_penalty_has_32(precision):
    """w = 1 + 2⁻¹³ is 1 in 16 bits; ascent on w − (w − 1)², with derivative 1 − 2⁻¹²."""
    critic = linear_critic(1 + 2**-13)
    sgd = torch.optim.SGD(critic.parameters(), lr=0.5)
    settings = {"constraint": "penalty", "penalty_weight": 1.0, "precision": policy(precision)}
    loss, penalty = critic_step(critic, sgd, torch.ones(4, 1), torch.zeros(4, 1), **settings)
    assert (loss.item(), loss.dtype) == (-1.0, torch.float32)  # the mean of scores in 16 bits
    assert penalty.item() == 2**-26
    assert weight_of(critic).item() == 1.5


@pytest.mark.parametrize("constraint", ["penalty", "spectral"])
def test_only_clip_clips(constraint):
    critic = linear_critic(3.0)
    sgd = torch.optim.SGD(critic.parameters(), lr=0.0)
    critic_step(critic, sgd, torch.ones(5, 1), torch.zeros(5, 1), constraint=constraint)
    assert weight_of(critic).item() == 3.0


@pytest.mark.parametrize("constraint", ["clip", "penalty", "spectral"])
def test_critic_step_sends_nothing_into_the_generator(constraint):
    generator, critic = Generator(2, 3, width=5, depth=1), Critic(3, width=5, depth=1)
    fake = generator(torch.randn(7, 2, generator=seeded()))
    assert fake.requires_grad
    sgd = torch.optim.SGD(critic.parameters(), lr=0.1)
    critic_step(critic, sgd, torch.ones(7, 3), fake, constraint=constraint)
    assert all(p.grad is None for p in generator.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_generator_step_moves_samples_to_higher_scores_by_hand(precision):
    """G(z) = a z + b, f(x) = 3 x: the gradient of −E f is −3 E z for a and −3 for b."""
    generator, critic = Generator(1, 1, width=1, depth=0), linear_critic(3.0)
    with torch.no_grad():
        generator.layers[0].weight.fill_(2.0)
    sgd = torch.optim.SGD(generator.parameters(), lr=0.1)
    noise, of = torch.tensor([[1.0], [4.0]]), {"precision": policy(precision)}
    loss = generator_step(generator, critic, sgd, noise, **of)
    assert (loss.item(), loss.dtype) == (-3 * 2 * 2.5, torch.float32)
    assert generator.layers[0].weight.item() == pytest.approx(2 + 0.1 * 3 * 2.5)
    assert generator.layers[0].bias.item() == pytest.approx(0.3)
    generator_step(generator, critic, sgd, noise, **of)
    assert generator.layers[0].bias.item() == pytest.approx(0.6)  # not 0.9: gradients start anew


def test_generator_step_leaves_no_trace_in_the_critic():
    generator, critic = Generator(2, 3, width=5, depth=1), Critic(3, width=5, depth=1)
    before = [p.detach().clone() for p in critic.parameters()]
    for parameter in critic.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    critic.layers[0].bias.requires_grad_(False)
    flags = [p.requires_grad for p in critic.parameters()]
    sgd = torch.optim.SGD(generator.parameters(), lr=0.1)
    generator_step(generator, critic, sgd, torch.randn(7, 2, generator=seeded()))
    for parameter, old, flag in zip(critic.parameters(), before, flags, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.requires_grad is flag
        assert torch.equal(parameter.grad, torch.full_like(parameter, 7.0))


def test_generator_step_accepts_frozen_layers():
    generator, critic = Generator(2, 3, width=5, depth=1), Critic(3, width=5, depth=1)
    generator.layers[0].requires_grad_(False)
    before = generator.layers[0].weight.clone()
    sgd = torch.optim.SGD(generator.parameters(), lr=0.1)
    generator_step(generator, critic, sgd, torch.randn(7, 2, generator=seeded()))
    assert torch.equal(generator.layers[0].weight, before)
    assert generator.layers[2].weight.grad.any()


def test_published_optimizers():
    clip, penalty, spectral = (
        published_optimizer(nn.Linear(2, 2), name) for name in ("clip", "penalty", "spectral")
    )
    assert type(clip) is torch.optim.RMSprop
    assert clip.defaults["lr"] == 5e-5
    for adam in (penalty, spectral):
        assert type(adam) is torch.optim.Adam
        assert (adam.defaults["lr"], adam.defaults["betas"]) == (1e-4, (0.5, 0.9))


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("constraint", ["clip", "penalty"])
def test_another_rate_is_kept_even_if_it_is_zero(constraint, rate):
    optimizer = published_optimizer(nn.Linear(2, 2), constraint, rate)
    assert math.isclose(optimizer.defaults["lr"], rate)
