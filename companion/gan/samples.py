"""Toy distributions in the plane, drawn from a formula.

Chapters: course/01_gan.ipynb, course/02_wasserstein.ipynb.
Dimension key: n samples, K modes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_count, check_number, typed

__all__ = ["gaussian_grid", "gaussian_ring", "grid_centres", "ring_centres"]


@typed
def ring_centres(*, modes: int = 8, radius: float = 2.0) -> Float[Tensor, "K 2"]:
    """Centres of the ring's modes, anticlockwise from the point (radius, 0).

    Args:
        modes: K, the number of modes; at least 1.
        radius: Distance of every centre from the origin.

    Returns:
        float32 points, shape (modes, 2).

    Raises:
        TypeError, ValueError: If ``modes`` is less than 1, or the radius negative or not finite.

    Example:
        >>> ring_centres(modes=4, radius=2.0).round().tolist()[:2]
        [[2.0, 0.0], [-0.0, 2.0]]
    """
    check_count("modes", modes)
    check_number("radius", radius, least=0)
    angles_K = torch.arange(modes) * (2 * math.pi / modes)
    return radius * torch.stack([angles_K.cos(), angles_K.sin()], dim=1)


@typed
def gaussian_ring(
    n: int,
    *,
    modes: int = 8,
    radius: float = 2.0,
    std: float = 0.02,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n 2"]:
    """Points from an even mixture of Gaussians whose centres lie on a circle.

        x = c_k + std · ε,    k uniform on the K modes,    ε ~ N(0, I)

    Source: the 8-Gaussians toy of Gulrajani et al. 2017, arXiv:1704.00028, §4.1 and its code.
    Difference: that code divides all points by 1.414 afterwards; we do not.

    Args:
        n: Number of points; may be 0.
        modes: K, the number of Gaussians.
        radius: Distance of the centres from the origin.
        std: Standard deviation of each Gaussian, along both axes.
        generator: Source of the randomness; its device is the device of the points.

    Returns:
        float32 points, shape (n, 2).

    Raises:
        TypeError, ValueError: If ``n``, ``std`` or the radius is negative, or ``modes`` below 1.

    Example:
        >>> gaussian_ring(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    return _mixture(n, ring_centres(modes=modes, radius=radius), std, generator)


@typed
def grid_centres(*, side: int = 5, spacing: float = 2.0) -> Float[Tensor, "K 2"]:
    """Centres of the grid's modes, around the origin: each column upwards, the left one first.

    Args:
        side: Modes along each axis; K = side².
        spacing: Distance between neighbours.

    Returns:
        float32 points, shape (side², 2).

    Raises:
        TypeError, ValueError: If ``side`` is less than 1, or the spacing negative or not finite.

    Example:
        >>> grid_centres(side=2, spacing=2.0).tolist()
        [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    check_count("side", side)
    check_number("spacing", spacing, least=0)
    ticks = spacing * (torch.arange(side) - (side - 1) / 2)
    return torch.cartesian_prod(ticks, ticks)


@typed
def gaussian_grid(
    n: int,
    *,
    side: int = 5,
    spacing: float = 2.0,
    std: float = 0.05,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n 2"]:
    """Points from an even mixture of Gaussians whose centres form a square grid.

        x = c_k + std · ε,    k uniform on the K modes,    ε ~ N(0, I)

    Source: the 25-Gaussians toy of Gulrajani et al. 2017, arXiv:1704.00028, §4.1 and its code.
    Differences: that code divides all points by 2.828 afterwards, and has exactly as many points
    of each mode; we do neither.

    Args:
        n: Number of points; may be 0.
        side: Gaussians along each axis; K = side².
        spacing: Distance between neighbouring centres.
        std: Standard deviation of each Gaussian, along both axes.
        generator: Source of the randomness; its device is the device of the points.

    Returns:
        float32 points, shape (n, 2).

    Raises:
        TypeError, ValueError: If ``n``, ``std`` or the spacing is negative, or ``side`` below 1.

    Example:
        >>> gaussian_grid(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    return _mixture(n, grid_centres(side=side, spacing=spacing), std, generator)


def _mixture(
    n: int, centres_K2: Float[Tensor, "K 2"], std: float, generator: torch.Generator | None
) -> Float[Tensor, "n 2"]:
    check_count("n", n, least=0)
    check_number("std", std, least=0)
    device = generator.device if generator is not None else None
    labels_n = torch.randint(len(centres_K2), (n,), generator=generator, device=device)
    noise_n2 = torch.randn(n, 2, generator=generator, device=device)
    return centres_K2.to(device)[labels_n] + std * noise_n2
