"""Training a critic between two samples, and a generator against a critic.

Chapter: course/02_wasserstein.ipynb.  Dimension key: B batch, N M samples, S steps, Z latents.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from companion.checks import typed
from companion.gan.batches import draw_indices, draw_noise
from companion.training import Stateful
from companion.training.precision import PrecisionPolicy
from companion.wasserstein.spectral import spectral_normalise_
from companion.wasserstein.updates import (
    Constraint,
    check_constraint,
    critic_step,
    critic_steps_at,
    generator_step,
    published_optimizer,
)

__all__ = ["CriticHistory", "WGANHistory", "WGANStep", "train_critic", "train_wgan"]


class CriticHistory(NamedTuple):
    """What ``train_critic`` saw at each of its S steps, before that step's update."""

    critic_loss: Float[Tensor, " S"]  # E f(fake) − E f(real)
    penalty: Float[Tensor, " S"]  # zeros unless constraint="penalty"

    @property
    def estimate(self) -> Float[Tensor, " S"]:
        """The critic's estimate of W₁: E f(real) − E f(fake)."""
        return -self.critic_loss


class WGANHistory(NamedTuple):
    """What ``train_wgan`` saw at each of its S generator steps."""

    critic_loss: Float[Tensor, " S"]  # at the last critic step before the generator's
    penalty: Float[Tensor, " S"]  # at the same step; zeros unless constraint="penalty"
    generator_loss: Float[Tensor, " S"]
    evaluations: dict[int, object]  # generator steps done → what ``evaluate`` returned

    @property
    def estimate(self) -> Float[Tensor, " S"]:
        """The critic's estimate of W₁: E f(real) − E f(fake)."""
        return -self.critic_loss


@typed
def train_critic(
    critic: nn.Module,
    real: Float[Tensor, "N *shape"],
    fake: Float[Tensor, "M *shape"],
    *,
    constraint: Constraint,
    steps: int,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    clip_limit: float = 0.01,
    penalty_weight: float = 10.0,
    generator_rng: torch.Generator | None = None,
) -> CriticHistory:
    """Train a critic, in place, to tell two fixed samples apart: its estimate approaches their W₁.

    How close depends on the constraint. "clip" holds no known slope, so its estimate has a scale
    of its own. "penalty" lets the slope pass 1: where W₁ = w and the critic is free, it settles at
    1 + w / (2λ). "spectral" keeps it at or below 1, and with ReLU mostly below.

    Args:
        critic: The critic; ``constraint="spectral"`` normalises its layers if they are not yet.
        real: First sample.
        fake: Second sample; with "penalty" and no batch size it needs as many points.
        constraint: What holds the slope: "clip", "penalty" or "spectral".
        steps: S, the number of updates.
        batch_size: Points of each sample in one step; None takes all of them.
        learning_rate: None takes the published one, as in ``train_wgan``.
        clip_limit: Bound of every weight, for "clip".
        penalty_weight: λ, for "penalty".
        generator_rng: Source of all randomness.

    Returns:
        Loss and penalty of every step.

    Raises:
        ValueError: If ``constraint`` is unknown, or a count is out of range.

    Example:
        >>> from companion.wasserstein import Critic
        >>> real, fake = torch.ones(4, 1), torch.zeros(4, 1)
        >>> critic = Critic(1, width=8, depth=1)
        >>> train_critic(critic, real, fake, constraint="penalty", steps=3).estimate.shape
        torch.Size([3])
    """
    _check_counts(1, batch_size=1 if batch_size is None else batch_size)
    _check_counts(0, steps=steps)
    _constrain(critic, constraint, generator_rng)
    optimizer = published_optimizer(critic, constraint, learning_rate)
    seen = real.new_zeros(steps, 2)
    for step in range(steps):
        losses = critic_step(
            critic,
            optimizer,
            _draw(real, batch_size, generator_rng),
            _draw(fake, batch_size, generator_rng),
            constraint=constraint,
            clip_limit=clip_limit,
            penalty_weight=penalty_weight,
            generator_rng=generator_rng,
        )
        seen[step] = torch.stack(losses)
    return CriticHistory(*seen.T)


class WGANStep:
    """One generator step of a Wasserstein GAN, with the critic steps before it.

    Holds the networks and their optimizers; ``state`` names all that a checkpoint must keep.
    The arguments are those of ``train_wgan``. In "fp16" both optimizers share the policy's scaler,
    which is updated after each step of either.
    """

    @typed
    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        data: Float[Tensor, "N *shape"],
        *,
        constraint: Constraint = "clip",
        n_critic: int = 5,
        warm_up: int | None = None,
        batch_size: int = 64,
        learning_rate: float | None = None,
        clip_limit: float = 0.01,
        penalty_weight: float = 10.0,
        generator_rng: torch.Generator | None = None,
        precision: PrecisionPolicy | None = None,
    ) -> None:
        _check_counts(1, n_critic=n_critic, batch_size=batch_size)
        _constrain(critic, constraint, generator_rng)
        self.generator, self.critic, self.data = generator, critic, data
        self.critic_optimizer = published_optimizer(critic, constraint, learning_rate)
        self.generator_optimizer = published_optimizer(generator, constraint, learning_rate)
        if warm_up is None:
            warm_up = 25 if constraint == "clip" else 0
        self.schedule = {"n_critic": n_critic, "warm_up": warm_up}
        self.batch_size = batch_size
        self.limits = {
            "constraint": constraint,
            "clip_limit": clip_limit,
            "penalty_weight": penalty_weight,
        }
        self.rng = generator_rng
        self.precision = precision or PrecisionPolicy("fp32", data.device)

    def __call__(self, step: int) -> dict[str, Float[Tensor, ""]]:
        """Train the critic, then the generator once; ``step`` counts from 0."""
        for _ in range(critic_steps_at(step, **self.schedule)):
            real = _draw(self.data, self.batch_size, self.rng)
            with torch.no_grad(), self.precision.autocast():
                fake = self.generator(self.noise()).to(real.dtype)
            loss, penalty = critic_step(
                self.critic,
                self.critic_optimizer,
                real,
                fake,
                generator_rng=self.rng,
                precision=self.precision,
                **self.limits,
            )
        score = generator_step(
            self.generator,
            self.critic,
            self.generator_optimizer,
            self.noise(),
            precision=self.precision,
        )
        return {"critic_loss": loss, "penalty": penalty, "generator_loss": score}

    def noise(self) -> Float[Tensor, "B Z"]:
        """One batch of Gaussian noise, on the data's device."""
        latents = self.generator.latent_features
        return draw_noise(self.batch_size, latents, like=self.data, generator=self.rng)

    @property
    def state(self) -> dict[str, Stateful]:
        """Name → object whose ``state_dict`` the next step depends on, as checkpoints spell it."""
        return {
            "generator": self.generator,
            "critic": self.critic,
            "generator_optimiser": self.generator_optimizer,
            "critic_optimiser": self.critic_optimizer,
            **self.precision.state,
        }


@typed
def train_wgan(
    generator: nn.Module,
    critic: nn.Module,
    data: Float[Tensor, "N *shape"],
    *,
    steps: int,
    constraint: Constraint = "clip",
    n_critic: int = 5,
    warm_up: int | None = None,
    batch_size: int = 64,
    learning_rate: float | None = None,
    clip_limit: float = 0.01,
    penalty_weight: float = 10.0,
    generator_rng: torch.Generator | None = None,
    evaluate: Callable[[], object] | None = None,
    evaluate_every: int = 100,
    precision: PrecisionPolicy | None = None,
) -> WGANHistory:
    """Train a Wasserstein GAN, both networks in place.

    The defaults are the published settings of each constraint: see ``published_optimizer`` and
    ``critic_steps_at``.

    Source: Arjovsky et al. 2017, arXiv:1701.07875, Algorithm 1 ("clip"); Gulrajani et al. 2017,
    arXiv:1704.00028, Algorithm 1 ("penalty"); Miyato et al. 2018, arXiv:1802.05957 ("spectral").

    Args:
        generator: Maps noise to samples; ``generator.latent_features`` is the noise's width.
        critic: Maps samples to scores; "spectral" normalises its layers if they are not yet.
        data: The real samples, on the device of both networks.
        steps: S, the number of generator steps.
        constraint: What holds the slope: "clip", "penalty" or "spectral".
        n_critic: Critic steps before each generator step.
        warm_up: As in ``critic_steps_at``; None takes 25 for "clip" and 0 otherwise.
        batch_size: B, samples in one step.
        learning_rate: For both optimizers; None takes the published one.
        clip_limit: Bound of every weight of the critic, for "clip".
        penalty_weight: λ, for "penalty"; the toy problems of arXiv:1704.00028 use 0.1.
        generator_rng: Source of all randomness: batches, noise, mixing weights.
        evaluate: Called before the first step, after every ``evaluate_every`` and at the end.
        evaluate_every: Generator steps between two calls.
        precision: Of both networks' arithmetic, but for the penalty's; None is float32.

    Returns:
        Losses of every generator step, and what ``evaluate`` returned.

    Raises:
        ValueError: If ``constraint`` is unknown, or a count is out of range.

    Example:
        >>> from companion.wasserstein import Critic, Generator
        >>> generator, critic = Generator(1, 2, width=8, depth=1), Critic(2, width=8, depth=1)
        >>> history = train_wgan(generator, critic, torch.ones(9, 2), steps=3, constraint="penalty")
        >>> history.estimate.shape
        torch.Size([3])
    """
    _check_counts(0, steps=steps)
    _check_counts(1, evaluate_every=evaluate_every)
    wgan_step = WGANStep(
        generator,
        critic,
        data,
        constraint=constraint,
        n_critic=n_critic,
        warm_up=warm_up,
        batch_size=batch_size,
        learning_rate=learning_rate,
        clip_limit=clip_limit,
        penalty_weight=penalty_weight,
        generator_rng=generator_rng,
        precision=precision,
    )
    seen, evaluations = data.new_zeros(steps, 3), {}
    for step in range(steps):
        if evaluate is not None and step % evaluate_every == 0:
            evaluations[step] = evaluate()
        measures = wgan_step(step)
        seen[step] = torch.stack(list(measures.values()))
    if evaluate is not None:
        evaluations[steps] = evaluate()
    return WGANHistory(*seen.T, evaluations)


def _constrain(
    critic: nn.Module, constraint: Constraint, generator_rng: torch.Generator | None
) -> None:
    """Normalise the critic's layers if the constraint asks for it and they are not yet."""
    check_constraint(constraint)
    normalised = any(parametrize.is_parametrized(layer) for layer in critic.modules())
    if constraint == "spectral" and not normalised:
        spectral_normalise_(critic, generator=generator_rng)


def _draw(
    data: Float[Tensor, "N *shape"], batch_size: int | None, generator: torch.Generator | None
) -> Float[Tensor, "B *shape"]:
    """A batch with replacement, or all the data in a new order if there is no batch size.

    The order matters to the gradient penalty, which mixes the i-th real with the i-th fake.
    """
    return data[draw_indices(len(data), batch_size, device=data.device, generator=generator)]


def _check_counts(least: int, **counts: int) -> None:
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")
