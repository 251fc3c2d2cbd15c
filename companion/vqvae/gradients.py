"""Two gradients for a choice that has none: straight through, and through a rotation.

Both give z_q itself, bit for bit; they differ in what reaches the encoder's output z. Nothing
reaches z_q here: the codebook learns by its own loss, or by moving averages.
Chapter: course/03_vqvae.ipynb.  Dimension key: D width of a code.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import typed

__all__ = ["rotate_through", "straight_through"]


@typed
def straight_through(
    z: Float[Tensor, "*shape"], z_q: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """z_q, with a gradient that goes to z as if the output were z.

        forward: z_q,    backward: ∂L/∂z = ∂L/∂output,    ∂L/∂z_q = 0

    Source: Bengio et al. 2013, arXiv:1308.3432, §3.1; van den Oord et al. 2017, arXiv:1711.00937,
    §3.2. Difference: the usual ``z + (z_q - z).detach()`` is rounded twice, and not always z_q.

    Args:
        z: What was quantised, of any shape.
        z_q: What it became; the same shape, dtype and device.

    Returns:
        A copy of z_q.

    Raises:
        TypeError: Another kind of argument, or two dtypes.
        ValueError: Two shapes or two devices.

    Example:
        >>> z = torch.tensor([0.3, 0.8], requires_grad=True)
        >>> straight_through(z, z.round()).square().sum().backward()
        >>> z.grad
        tensor([0., 2.])
    """
    _check_pair(z, z_q)
    return _StraightThrough.apply(z, z_q)


@typed
def rotate_through(z: Float[Tensor, "*b D"], z_q: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
    """z_q, with a gradient that turns and stretches as z must to become z_q.

        z_q = λ R z,    λ = ‖z_q‖ / ‖z‖,    R = I − 2 r rᵀ + 2 q̂ ẑᵀ,    r = (ẑ + q̂) / ‖ẑ + q̂‖
        forward: z_q,    backward: ∂L/∂z = λ Rᵀ ∂L/∂output  (λ and R are constants),  ∂L/∂z_q = 0

    where ẑ = z / ‖z‖ and q̂ = z_q / ‖z_q‖. The gradient keeps its angle to the vector it belongs to.

    Source: Fifty et al. 2024, arXiv:2410.06424, §4.2. Three cases that it leaves open:
    at z = 0 the gradient is the straight-through one; at z_q = 0 it is 0, as λ is; at q̂ = −ẑ,
    where many rotations do, r is 0 and R the reflection I − 2 ẑ ẑᵀ. That R is also taken where
    ‖ẑ + q̂‖ is less than √ε of the dtype, since rounding would decide r there.

    Args:
        z: What was quantised, along the last dimension.
        z_q: What it became; the same shape, dtype and device.

    Returns:
        A copy of z_q. The gradient is computed in float32 at least and has z's dtype.

    Raises:
        TypeError: Another kind of argument, or two dtypes.
        ValueError: Two shapes, no dimension, or two devices.

    Example:
        >>> z = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> rotate_through(z, torch.tensor([0.0, 2.0])).backward(torch.tensor([3.0, 1.0]))
        >>> [f"{x:.3f}" for x in z.grad]
        ['2.000', '-6.000']
    """
    _check_pair(z, z_q)
    if z.ndim == 0:
        raise ValueError("z must have a dimension of codes, got a scalar")
    return _RotateThrough.apply(z, z_q)


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, z_q: Tensor) -> Tensor:
        return z_q.clone()  # not z_q itself: a later in-place operation must not change it

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _RotateThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, z_q: Tensor) -> Tensor:
        return z_q.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        wide = torch.promote_types(grad.dtype, torch.float32)
        # Detached: the map is a constant also when this is differentiated again.
        z, z_q = (x.detach().to(wide) for x in ctx.saved_tensors)
        return _turned_back(grad.to(wide), z, z_q).to(grad.dtype), None


def _turned_back(grad: Tensor, z: Tensor, z_q: Tensor) -> Tensor:
    """λ Rᵀ grad, from inner products alone: R itself, D × D, is never formed."""
    z_norm, q_norm = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (z, z_q))
    nowhere = z_norm == 0
    # With both directions 0, R is I: the straight-through gradient at z = 0.
    z_hat = z / z_norm.masked_fill(nowhere, 1)
    q_hat = (z_q / q_norm.masked_fill(q_norm == 0, 1)).masked_fill(nowhere, 0)
    total = z_hat + q_hat
    length = torch.linalg.vector_norm(total, dim=-1, keepdim=True)
    opposite = length < math.sqrt(torch.finfo(z.dtype).eps)
    r = (total / length.masked_fill(opposite, 1)).masked_fill(opposite, 0)
    scale = (q_norm / z_norm).masked_fill(nowhere, 1)
    along_r, along_q = ((x * grad).sum(-1, keepdim=True) for x in (r, q_hat))
    return scale * (grad - 2 * r * along_r + 2 * z_hat * along_q)


def _check_pair(z: Tensor, z_q: Tensor) -> None:
    if z.dtype != z_q.dtype:
        raise TypeError(f"z_q: expected z's dtype, {z.dtype}, got {z_q.dtype}")
    if z.shape != z_q.shape:
        raise ValueError(f"z_q: expected z's shape, {tuple(z.shape)}, got {tuple(z_q.shape)}")
    if z.device != z_q.device:
        raise ValueError(f"z_q: expected z's device, {z.device}, got {z_q.device}")
