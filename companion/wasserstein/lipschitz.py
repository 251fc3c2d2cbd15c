"""Holding a critic's slope, by clipping or by a penalty, and measuring it.

Kantorovich-Rubinstein duality asks for a 1-Lipschitz function. The third way to come near that
class, normalising the layers, stands in ``spectral``.

Chapter: course/02_wasserstein.ipynb.  Dimension key: B batch, n m samples.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion.checks import check_finite, check_number, check_tensor, typed

__all__ = [
    "clip_weights_",
    "gradient_norms",
    "gradient_penalty",
    "lipschitz_estimate",
]


@typed
@torch.no_grad()
def clip_weights_(module: nn.Module, limit: float) -> None:
    """Clamp every parameter of a module into [-limit, limit], in place.

        w ← min(max(w, −c), c)

    Source: Arjovsky et al. 2017, arXiv:1701.07875, Algorithm 1 line 7, where c = 0.01.

    Args:
        module: The critic; biases are clipped as well.
        limit: c > 0.

    Raises:
        ValueError: If ``limit`` is not positive.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> clip_weights_(layer, 0.01)
        >>> bool(layer.weight.abs().max() <= 0.01)
        True
    """
    if not limit > 0:
        raise ValueError(f"limit must be positive, got {limit}")
    for parameter in module.parameters():
        bound = min(limit, torch.finfo(parameter.dtype).max)
        parameter.clamp_(-bound, bound)


@typed
def gradient_norms(
    critic: Callable[[Tensor], Tensor], points: Float[Tensor, "B *shape"]
) -> Float[Tensor, " B"]:
    """Length of the critic's gradient at every point, differentiable in the critic's weights.

        ‖∇ₓ f(x)‖₂ over all axes of x but the batch

    Works inside ``torch.no_grad()`` too, and leaves the caller's gradient mode as it was.

    Args:
        critic: Maps points to scores; a score may depend on its own point only.
        points: Where to take the gradient.

    Returns:
        One norm per point, in the points' dtype.

    Example:
        >>> gradient_norms(lambda x: 3 * x[:, 0] + 4 * x[:, 1], torch.zeros(2, 2)).tolist()
        [5.0, 5.0]
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        (gradients,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    # vector_norm has derivative 0 at 0; the root of a sum of squares has 0/0 = NaN there.
    return torch.linalg.vector_norm(gradients.flatten(1), dim=1)


@typed
def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Float[Tensor, "B *shape"],
    fake: Float[Tensor, "B *shape"],
    *,
    weight: float = 10.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Mean squared distance of the critic's slope from 1, between real and fake samples.

        weight · E[(‖∇f(x̂)‖₂ − 1)²],    x̂ = t x + (1 − t) y,    t ~ U[0, 1] once per sample

    Source: Gulrajani et al. 2017, arXiv:1704.00028, §4 equation 3 and Algorithm 1.

    Args:
        critic: Maps samples to scores; a score may depend on its own sample only.
        real: Samples x.
        fake: Samples y, of the same shape; the penalty sends no gradient into them.
        weight: λ.
        generator: Source of the mixing weights t.

    Returns:
        The penalty, to be added to the critic's loss; differentiable in the critic's weights.

    Raises:
        ValueError: If the two shapes differ or the batch is empty.

    Example:
        >>> real, fake = torch.ones(5, 2), torch.zeros(5, 2)
        >>> gradient_penalty(lambda x: 3 * x[:, 0], real, fake, weight=0.5).item()
        2.0
    """
    check_number("weight", weight, least=0)
    check_tensor("real", real)
    check_tensor("fake", fake)
    if real.shape != fake.shape or real.shape[0] == 0:
        raise ValueError(
            f"real and fake must have one shape and at least one sample, "
            f"got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    device = real.device if generator is None else generator.device
    t_B = torch.rand(len(real), generator=generator, device=device).to(real)
    t = t_B.view(-1, *[1] * (real.ndim - 1))
    return weight * (gradient_norms(critic, t * real + (1 - t) * fake) - 1).square().mean()


@typed
@torch.no_grad()
def lipschitz_estimate(
    critic: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n *shape"],
    y: Float[Tensor, "m *shape"],
) -> Float[Tensor, ""]:
    """Largest slope of the critic that is seen between a point of x and a point of y.

        max |f(xᵢ) − f(yⱼ)| / ‖xᵢ − yⱼ‖₂,    over the pairs with xᵢ ≠ yⱼ

    It never exceeds the Lipschitz constant. Dividing a critic by it makes the critic feasible for
    the dual program between the two samples, so the quotient (mean f(x) − mean f(y)) / estimate
    is at most their exact W₁ when both samples are weighted evenly.

    Args:
        critic: Maps points to scores.
        x: First sample.
        y: Second sample.

    Returns:
        The slope, in the scores' dtype.

    Raises:
        TypeError: If x or y is no tensor of floating-point numbers.
        ValueError: If no two points differ, or a point or a score is not finite.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
        >>> lipschitz_estimate(lambda z: z[:, 0].square(), x, y).item()
        4.0
    """
    check_finite("x", x)
    check_finite("y", y)
    rise_nm = (critic(x).flatten()[:, None] - critic(y).flatten()[None, :]).abs()
    # The direct formula: the faster one by a matrix product is inexact for points close together.
    run_nm = torch.cdist(x.flatten(1), y.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    slopes = (rise_nm / run_nm)[run_nm > 0]
    if slopes.numel() == 0:
        raise ValueError("expected two points that differ, got none")
    check_finite("the critic's slopes", slopes)
    return slopes.max()
