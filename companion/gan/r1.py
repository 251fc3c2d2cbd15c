"""The gradient penalty that lets the game settle.

Chapter: course/01_gan.ipynb.  Dimension key: B batch.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_number, check_tensor, typed

__all__ = ["r1_penalty"]


@typed
def r1_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Float[Tensor, "B *shape"],
    *,
    gamma: float,
) -> Float[Tensor, ""]:
    """Mean squared slope of the discriminator at the real samples.

        γ/2 · E_p ‖∇ₓ D(x)‖²,    D the logit, the norm over all axes of x but the batch

    Source: Mescheder et al. 2018, arXiv:1801.04406, §4.1.

    A logit may depend on its own sample only. Batch normalisation breaks that: the gradient of the
    summed logits, which is taken here, then mixes the samples, and no error says so.

    Works inside ``torch.no_grad()`` too, and leaves the caller's gradient mode as it was.

    Args:
        discriminator: Maps samples to logits, one each (of several, as for patches or for games
            side by side, the sum counts); for the conditional game
            ``lambda x: discriminator(x, labels)``.
        real: Samples x of the data; the penalty sends no gradient into them.
        gamma: γ.

    Returns:
        The penalty, to be added to the discriminator's loss; differentiable in its weights.

    Raises:
        ValueError: If γ is negative, the batch empty, or the logits have another shape.

    Example:
        >>> r1_penalty(lambda x: 3 * x[:, 0] + 4 * x[:, 1], torch.zeros(5, 2), gamma=2.0).item()
        25.0
    """
    check_tensor("real", real)
    check_number("gamma", gamma, least=0)
    if real.ndim == 0 or len(real) == 0:
        raise ValueError(f"real: expected at least one sample, got shape {tuple(real.shape)}")
    with torch.enable_grad():
        real = real.detach().requires_grad_()
        logits_B = discriminator(real)
        if logits_B.shape[:1] != real.shape[:1]:
            raise ValueError(
                f"discriminator: expected logits of shape ({len(real)}, …), "
                f"got {tuple(logits_B.shape)}"
            )
        # The sum's gradient holds each sample's own: no other logit depends on that sample.
        (gradients,) = torch.autograd.grad(logits_B.sum(), real, create_graph=True)
    return gamma / 2 * gradients.flatten(1).square().sum(1).mean()
