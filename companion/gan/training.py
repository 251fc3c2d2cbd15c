"""Training a generator against a discriminator.

Chapter: course/01_gan.ipynb.  Dimension key: B batch, N samples, S steps, Z latents.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from companion.checks import check_count, check_number, typed
from companion.gan.batches import draw_indices, draw_noise
from companion.gan.losses import GANLoss
from companion.gan.r1 import r1_penalty
from companion.training import Stateful
from companion.training.precision import PrecisionPolicy, wide

__all__ = ["GANHistory", "GANStep", "train_gan"]

LARGEST_RATE = 1e30  # far above any use, and still a float32


class GANHistory(NamedTuple):
    """What ``train_gan`` saw at each of its S generator steps, and the averaged generator."""

    discriminator_loss: Float[Tensor, " S"]  # at the last discriminator step before the generator's
    penalty: Float[Tensor, " S"]  # at the same step; zeros without gamma
    generator_loss: Float[Tensor, " S"]
    evaluations: dict[int, object]  # generator steps done → what ``evaluate`` returned
    averaged: nn.Module | None  # in evaluation mode; None without ema


class GANStep:
    """One generator step of a GAN, with the discriminator steps before it.

    Holds the networks and their optimizers; ``state`` names all that a checkpoint must keep, and
    ``averaged`` is the averaged generator or None. The arguments are those of ``train_gan``. Each
    step puts both networks in training mode. In "fp16" both optimizers share the policy's scaler,
    which is updated after each step of either.
    """

    @typed
    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        data: Float[Tensor, "N *shape"],
        *,
        loss: Callable[[Tensor, Tensor], GANLoss],
        labels: Int[Tensor, " N"] | None = None,
        n_critic: int = 1,
        gamma: float = 0.0,
        ema: float | None = None,
        batch_size: int = 64,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        generator_rng: torch.Generator | None = None,
        precision: PrecisionPolicy | None = None,
    ) -> None:
        check_count("n_critic", n_critic)
        check_count("batch_size", batch_size)
        check_number("gamma", gamma, least=0)
        normalised = any(isinstance(part, _BatchNorm) for part in discriminator.modules())
        if gamma > 0 and normalised:
            raise ValueError(
                "gamma must be 0 with a discriminator that has batch normalisation, where the "
                f"slope at a sample depends on the whole batch, got {gamma}"
            )
        check_number("learning_rate", learning_rate, least=0, most=LARGEST_RATE)
        _check_samples(data, labels)
        self.generator, self.discriminator = generator, discriminator
        self.data, self.labels, self.loss = data, labels, loss
        self.n_critic, self.gamma, self.batch_size = n_critic, gamma, batch_size
        self.rng = generator_rng
        self.precision = precision or PrecisionPolicy("fp32", data.device)
        if len(betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {len(betas)}")
        settings = {"lr": learning_rate, "betas": _check_decays("betas", betas)}
        self.discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), **settings)
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), **settings)
        self._average = None if ema is None else _moving_average(generator, ema)

    def __call__(self, step: int) -> dict[str, Float[Tensor, ""]]:
        """Train the discriminator, then the generator once; every ``step`` is alike."""
        self.generator.train()
        self.discriminator.train()
        for _ in range(self.n_critic):
            loss, penalty, real_logits = self._train_discriminator()
        score = self._train_generator(real_logits)
        if self._average is not None:
            self._average.update_parameters(self.generator)
        return {"discriminator_loss": loss, "penalty": penalty, "generator_loss": score}

    def _train_discriminator(self) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, penalty and the real samples' logits, all from before the update.

        Real and fake go through the discriminator one after the other, each with batch statistics
        of its own, as in DCGAN's code. The penalty is computed in float32 under any policy: it
        holds a gradient inside, from a backward pass of its own that no scaler sees.
        """
        index_B = self._indices()
        real = self.data[index_B]
        condition = () if self.labels is None else (self.labels[index_B],)
        latents = self._latents()
        with torch.no_grad(), self.precision.autocast():
            fake = self.generator(*latents).to(real.dtype)
        with self.precision.autocast():
            real_logits_B = wide(self.discriminator(real, *condition))
            fake_logits_B = wide(self.discriminator(fake, *latents[1:]))
        loss = self.loss(real_logits_B, fake_logits_B).discriminator
        penalty = torch.zeros_like(loss)
        if self.gamma > 0:
            penalty = r1_penalty(
                lambda x: self.discriminator(x, *condition), real, gamma=self.gamma
            )
        self._update(self.discriminator_optimizer, loss + penalty, self.discriminator)
        return loss.detach(), penalty.detach(), real_logits_B.detach()

    def _train_generator(self, real_logits_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
        """Loss from before the update; no gradient is left in the discriminator's weights."""
        latents = self._latents()
        with self.precision.autocast():
            fake_logits_B = wide(self.discriminator(self.generator(*latents), *latents[1:]))
        loss = self.loss(real_logits_B, fake_logits_B).generator
        self._update(self.generator_optimizer, loss, self.generator)
        return loss.detach()

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor, network: nn.Module) -> None:
        optimizer.zero_grad()
        learning = [p for p in network.parameters() if p.requires_grad]
        self.precision.backward(loss, inputs=learning)  # of this network alone
        self.precision.step(optimizer)
        self.precision.update()

    def _indices(self) -> Int[Tensor, " B"]:
        where = {"device": self.data.device, "generator": self.rng}
        return draw_indices(len(self.data), self.batch_size, **where)

    def _latents(self) -> tuple[Tensor, ...]:
        """What the generator takes: noise and, for the conditional game, labels of the data."""
        noise_BZ = draw_noise(
            self.batch_size, self.generator.latent_features, like=self.data, generator=self.rng
        )
        return (noise_BZ,) if self.labels is None else (noise_BZ, self.labels[self._indices()])

    @property
    def averaged(self) -> nn.Module | None:
        """The averaged generator in evaluation mode; None without ``ema``."""
        return None if self._average is None else self._average.module

    @property
    def state(self) -> dict[str, Stateful]:
        """Name → object whose ``state_dict`` the next step depends on."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            **({} if self._average is None else {"averaged": self._average}),
            **self.precision.state,
        }


@typed
def train_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    data: Float[Tensor, "N *shape"],
    *,
    loss: Callable[[Tensor, Tensor], GANLoss],
    steps: int,
    labels: Int[Tensor, " N"] | None = None,
    n_critic: int = 1,
    gamma: float = 0.0,
    ema: float | None = None,
    batch_size: int = 64,
    learning_rate: float = 2e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    generator_rng: torch.Generator | None = None,
    evaluate: Callable[[], object] | None = None,
    evaluate_every: int = 100,
    precision: PrecisionPolicy | None = None,
) -> GANHistory:
    """Train a GAN, both networks in place, in turn: the discriminator, then the generator.

    The averaged generator has w̄₁ = w₁ after the first step, then w̄ ← β·w̄ + (1 − β)·w, for its
    weights and for the statistics of its batch normalisation alike.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, Algorithm 1; with labels Mirza & Osindero
    2014, arXiv:1411.1784, §3.2; Adam and its settings Radford et al. 2015, arXiv:1511.06434, §4;
    R1 and the average Mescheder et al. 2018, arXiv:1801.04406, §4.1 and §5 (β = 0.999).

    Args:
        generator: Maps noise, or noise and labels, to samples; ``generator.latent_features`` is
            the noise's width.
        discriminator: Maps samples, or samples and labels, to logits. With ``gamma`` it must
            have no batch normalisation: see ``r1_penalty``.
        data: The real samples, on the device of both networks.
        loss: Maps real and fake logits to what each player minimises, as ``non_saturating_loss``.
            At the generator's step the real logits are those of the discriminator's last step.
        steps: S, the number of generator steps.
        labels: One for every sample, for the conditional game. Fakes get labels drawn anew from
            them, so that both players see the data's classes equally often.
        n_critic: Discriminator steps before each generator step.
        gamma: γ of ``r1_penalty``; 0 computes none.
        ema: β, in [0, 1); None keeps no average.
        batch_size: B, samples in one step.
        learning_rate: Of both networks' Adam.
        betas: Of both networks' Adam.
        generator_rng: Source of all randomness: batches, noise, labels.
        evaluate: Called before the first step, after every ``evaluate_every`` and at the end.
        evaluate_every: Generator steps between two calls.
        precision: Of both networks' arithmetic, but for the penalty's; None is float32.

    Returns:
        Losses of every generator step, what ``evaluate`` returned, and the averaged generator.

    Raises:
        ValueError: If a count or a rate is out of range, there is no sample, the labels are not
            one for each, or there is a penalty and batch normalisation.

    Example:
        >>> from companion.gan import Discriminator, Generator, non_saturating_loss
        >>> generator = Generator(1, 2, width=8, depth=1)
        >>> discriminator = Discriminator(2, width=8, depth=1)
        >>> history = train_gan(
        ...     generator, discriminator, torch.ones(9, 2), loss=non_saturating_loss, steps=3
        ... )
        >>> history.generator_loss.shape, history.averaged
        (torch.Size([3]), None)
    """
    check_count("steps", steps, least=0)
    check_count("evaluate_every", evaluate_every)
    gan_step = GANStep(
        generator,
        discriminator,
        data,
        loss=loss,
        labels=labels,
        n_critic=n_critic,
        gamma=gamma,
        ema=ema,
        batch_size=batch_size,
        learning_rate=learning_rate,
        betas=betas,
        generator_rng=generator_rng,
        precision=precision,
    )
    seen, evaluations = data.new_zeros(steps, 3), {}
    for step in range(steps):
        if evaluate is not None and step % evaluate_every == 0:
            evaluations[step] = evaluate()
        seen[step] = torch.stack(list(gan_step(step).values()))
    if evaluate is not None:
        evaluations[steps] = evaluate()
    return GANHistory(*seen.T, evaluations, gan_step.averaged)


def _check_samples(data: Tensor, labels: Tensor | None) -> None:
    if data.ndim == 0 or len(data) == 0:
        raise ValueError(f"data: expected at least one sample, got shape {tuple(data.shape)}")
    if labels is not None and labels.shape != data.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(data)},), got {tuple(labels.shape)}")


def _check_decays(name: str, decays: tuple[float, ...]) -> tuple[float, ...]:
    for decay in decays:
        check_number(name, decay, least=0)
        if decay >= 1:
            raise ValueError(f"{name} must be less than 1, got {decay}")
    return decays


def _moving_average(generator: nn.Module, decay: float) -> AveragedModel:
    _check_decays("ema", (decay,))
    # With its buffers: averaged weights need the statistics that belong to them, not the last ones.
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False).eval()
