"""Four ways to score the game between a discriminator and a generator, from the logits l.

    D(x) = σ(l(x)),   log D = logsigmoid(l),   log(1 − D) = logsigmoid(−l)

Written in logits, no loss overflows and none takes the logarithm of 0: −log σ(l) grows like −l,
also where σ(l) itself is 0 in any format. Each pair is the discriminator's loss and the
generator's, both to be minimised. Which of the two sets of logits is real cannot be seen from
them: the real ones come first, everywhere in this package.

Half-precision logits give losses in float32, as under PyTorch's autocast: a loss in float16 would
overflow at once when a loss scaler multiplies it by 2¹⁶. Gradients have the logits' dtype.
Chapter: course/01_gan.ipynb.  Any shape; the means are over all entries.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from companion.checks import typed
from companion.training.precision import wide

__all__ = [
    "GANLoss",
    "hinge_loss",
    "least_squares_loss",
    "minimax_loss",
    "non_saturating_loss",
]


class GANLoss(NamedTuple):
    """What each of the two players minimises: two scalars."""

    discriminator: Float[Tensor, ""]
    generator: Float[Tensor, ""]


@typed
def minimax_loss(
    real_logits: Float[Tensor, "*real"], fake_logits: Float[Tensor, "*fake"]
) -> GANLoss:
    """The game as it was first written: what one player wins, the other loses.

        discriminator  −mean log D(x) − mean log(1 − D(G(z)))
        generator      mean log(1 − D(G(z)))        d/dl = −σ(l) / B

    The generator's gradient vanishes where D is near 0: where the discriminator is sure that a
    sample is fake, as it is early in training.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, §3, Eq. 1.

    Args:
        real_logits, fake_logits: The discriminator's outputs before the sigmoid.

    Returns:
        Two scalars; the generator's is at most 0.

    Raises:
        TypeError: The logits are not floating point.
        ValueError: There are no real or no fake logits.

    Example:
        >>> import torch
        >>> minimax_loss(torch.tensor([9.0]), torch.tensor([-9.0]))  # both told apart
        GANLoss(discriminator=tensor(0.0002), generator=tensor(-0.0001))
    """
    real, fake = _checked(real_logits, fake_logits)
    log_not_fooled = logsigmoid(-fake).mean()
    return GANLoss(-logsigmoid(real).mean() - log_not_fooled, log_not_fooled)


@typed
def non_saturating_loss(
    real_logits: Float[Tensor, "*real"], fake_logits: Float[Tensor, "*fake"]
) -> GANLoss:
    """The same discriminator; the generator maximises log D instead.

        generator      −mean log D(G(z))            d/dl = −σ(−l) / B

    Its gradient is largest where minimax's vanishes; the game's fixed point is the same.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, §3.

    Args, Returns, Raises: As for ``minimax_loss``; the generator's loss is at least 0.

    Example:
        >>> import torch
        >>> non_saturating_loss(torch.tensor([9.0]), torch.tensor([-9.0]))
        GANLoss(discriminator=tensor(0.0002), generator=tensor(9.0001))
    """
    real, fake = _checked(real_logits, fake_logits)
    discriminator = -logsigmoid(real).mean() - logsigmoid(-fake).mean()
    return GANLoss(discriminator, -logsigmoid(fake).mean())


@typed
def least_squares_loss(
    real_logits: Float[Tensor, "*real"], fake_logits: Float[Tensor, "*fake"]
) -> GANLoss:
    """Real is 1 and fake is 0, and the error is squared: no sigmoid.

        discriminator  ½ mean (l(x) − 1)² + ½ mean l(G(z))²
        generator      ½ mean (l(G(z)) − 1)²

    Source: Mao et al. 2016, arXiv:1611.04076, the 0–1 coding; with the paper's ½, which some
    implementations leave out.

    Args, Returns, Raises: As for ``minimax_loss``; both losses are at least 0.

    Example:
        >>> import torch
        >>> least_squares_loss(torch.tensor([3.0]), torch.tensor([-2.0]))
        GANLoss(discriminator=tensor(4.), generator=tensor(4.5000))
    """
    real, fake = _checked(real_logits, fake_logits)
    discriminator = ((real - 1).square().mean() + fake.square().mean()) / 2
    return GANLoss(discriminator, (fake - 1).square().mean() / 2)


@typed
def hinge_loss(real_logits: Float[Tensor, "*real"], fake_logits: Float[Tensor, "*fake"]) -> GANLoss:
    """The discriminator is content once a logit is on the right side by a margin of 1.

        discriminator  mean max(0, 1 − l(x)) + mean max(0, 1 + l(G(z)))
        generator      −mean l(G(z))

    Source: Lim & Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957.

    Args, Returns, Raises: As for ``minimax_loss``; the generator's loss may have either sign.

    Example:
        >>> import torch
        >>> hinge_loss(torch.tensor([3.0]), torch.tensor([-0.5]))
        GANLoss(discriminator=tensor(0.5000), generator=tensor(0.5000))
    """
    real, fake = _checked(real_logits, fake_logits)
    return GANLoss((1 - real).relu().mean() + (1 + fake).relu().mean(), -fake.mean())


def _checked(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    for name, logits in (("real_logits", real_logits), ("fake_logits", fake_logits)):
        if logits.numel() == 0:
            raise ValueError(f"{name}: expected at least one, got shape {tuple(logits.shape)}")
    return wide(real_logits), wide(fake_logits)
