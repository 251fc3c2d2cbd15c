"""One update of a critic and one of a generator, with the losses they follow.

    W₁(p, q) = max over 1-Lipschitz f of  E_p f(x) − E_q f(y),    then    min over G of W₁(p, G#z)

Chapter: course/02_wasserstein.ipynb.  Dimension key: B batch, Z latents.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from companion.checks import check_count, check_number, typed
from companion.training.precision import PrecisionPolicy, wide
from companion.wasserstein.lipschitz import clip_weights_, gradient_penalty

__all__ = [
    "Constraint",
    "check_constraint",
    "critic_loss",
    "critic_step",
    "critic_steps_at",
    "generator_loss",
    "generator_step",
    "published_optimizer",
]

Constraint = Literal["clip", "penalty", "spectral"]
LARGEST_RATE = 1e30  # far above any use, and still a float32


@typed
def critic_loss(
    real_scores: Float[Tensor, " B"], fake_scores: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Loss that the critic minimises: minus its estimate of W₁.

        E f(fake) − E f(real)

    Source: Arjovsky et al. 2017, arXiv:1701.07875, §3, equation 2. Difference: they write the
    quantity to be maximised, which has the other sign.

    Example:
        >>> critic_loss(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0])).item()
        -3.0
    """
    return fake_scores.mean() - real_scores.mean()


@typed
def generator_loss(fake_scores: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Loss that the generator minimises: −E f(fake), the part of W₁ that it can change.

    Source: Arjovsky et al. 2017, arXiv:1701.07875, Algorithm 1 line 10.

    Example:
        >>> generator_loss(torch.tensor([1.0, 3.0])).item()
        -2.0
    """
    return -fake_scores.mean()


@typed
def critic_steps_at(step: int, *, n_critic: int = 5, warm_up: int = 25) -> int:
    """Critic steps before generator step ``step``, which counts from 0.

    There are 100 before each of the first ``warm_up`` generator steps and, unless ``warm_up`` is
    0, before every 500th, so that the generator follows a critic close to its optimum.

    Source: the code of Arjovsky et al. 2017, arXiv:1701.07875; Algorithm 1 has ``n_critic`` alone.

    Raises:
        TypeError, ValueError: If a number is no integer, or negative, or ``n_critic`` below 1.

    Example:
        >>> [critic_steps_at(step) for step in (0, 24, 25, 499, 500)]
        [100, 100, 5, 5, 100]
    """
    for name, value in {"step": step, "warm_up": warm_up}.items():
        check_count(name, value, least=0)
    check_count("n_critic", n_critic)
    return 100 if step < warm_up or (warm_up and step % 500 == 0) else n_critic


@typed
def critic_step(
    critic: nn.Module,
    optimizer: Optimizer,
    real: Float[Tensor, "B *shape"],
    fake: Float[Tensor, "B *shape"],
    *,
    constraint: Constraint,
    clip_limit: float = 0.01,
    penalty_weight: float = 10.0,
    generator_rng: torch.Generator | None = None,
    precision: PrecisionPolicy | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """One update of the critic; returns its loss and its penalty from before the update.

    The weights are clipped after the step, as in Algorithm 1 of arXiv:1701.07875, so that the
    critic is inside its class when the generator sees it. That paper's code clips before the step.

    ``precision`` decides on the scores; None is float32. The penalty is computed in float32 under
    any policy. It holds a gradient inside, from a backward pass of its own that no scaler sees: in
    float16 small slopes would vanish there, whatever the loss is multiplied by later.
    """
    check_constraint(constraint)
    policy = precision or PrecisionPolicy("fp32", real.device)
    with policy.autocast():
        real_scores, fake_scores = critic(real), critic(fake.detach())
    loss = critic_loss(wide(real_scores), wide(fake_scores))
    penalty = torch.zeros_like(loss)
    if constraint == "penalty":
        penalty = gradient_penalty(
            critic, real, fake, weight=penalty_weight, generator=generator_rng
        )
    optimizer.zero_grad()
    policy.backward(loss + penalty)
    policy.step(optimizer)
    policy.update()
    if constraint == "clip":
        clip_weights_(critic, clip_limit)
    return loss.detach(), penalty.detach()


@typed
def generator_step(
    generator: nn.Module,
    critic: nn.Module,
    optimizer: Optimizer,
    noise: Float[Tensor, "B Z"],
    *,
    precision: PrecisionPolicy | None = None,
) -> Float[Tensor, ""]:
    """One update of the generator; returns its loss from before the update.

    No gradient is left in the critic's weights: ``inputs=`` asks for the generator's alone.
    ``precision`` decides on both networks; None is float32.
    """
    policy = precision or PrecisionPolicy("fp32", noise.device)
    with policy.autocast():
        scores = critic(generator(noise))
    loss = generator_loss(wide(scores))
    optimizer.zero_grad()
    policy.backward(loss, inputs=[p for p in generator.parameters() if p.requires_grad])
    policy.step(optimizer)
    policy.update()
    return loss.detach()


@typed
def published_optimizer(
    module: nn.Module, constraint: Constraint, learning_rate: float | None = None
) -> Optimizer:
    """The optimizer of the paper behind a constraint, with its rate unless another is given.

    "clip": RMSprop, 5e-5 (arXiv:1701.07875, Algorithm 1). "penalty": Adam, 1e-4, betas (0.5, 0.9)
    (the code of arXiv:1704.00028). "spectral": the same Adam; its paper trains with other losses.
    """
    check_constraint(constraint)
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, least=0, most=LARGEST_RATE)
    if constraint == "clip":
        rate = 5e-5 if learning_rate is None else learning_rate
        return torch.optim.RMSprop(module.parameters(), lr=rate)
    rate = 1e-4 if learning_rate is None else learning_rate
    return torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.9))


def check_constraint(constraint: str) -> None:
    """Raises ValueError unless it is one of ``Constraint``."""
    if constraint not in get_args(Constraint):
        raise ValueError(f"constraint must be one of {get_args(Constraint)}, got {constraint!r}")
