"""How many modes of a known mixture a generator finds.

A count for toy data, where the modes are known: eight on a ring, twenty-five on a grid.
Chapter: course/01_gan.ipynb.  Dimension key: N samples, K modes, D coordinates.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_finite, check_number, typed

__all__ = ["ModeCoverage", "mode_coverage"]


class ModeCoverage(NamedTuple):
    """Modes with enough good samples, and the share of the samples that are good."""

    modes: int
    good_share: float


@typed
@torch.no_grad()
def mode_coverage(
    samples: Float[Tensor, "N D"],
    centers: Float[Tensor, "K D"],
    *,
    radius: float,
    least_share: float = 0.0,
) -> ModeCoverage:
    """Count the modes that samples fall on.

        good      |x − c| ≤ radius for the centre c nearest to x
        covered   a mode whose centre is the nearest one of at least one good sample

    By default a single good sample covers a mode, as in the literature; shapeless noise then covers
    most of a ring. With ``least_share`` a mode needs that share of all samples, good and nearest to
    its centre. Choose the radius by the mixture, say three standard deviations.

    Source: Srivastava et al. 2017, arXiv:1705.07761, the experiments on synthetic data.

    Args:
        samples: The generator's, in the rows.
        centers: Of the modes, in the rows. Where two are equally near, the first one counts.
        radius: At least 0, in the samples' unit. Distances are taken in float64.
        least_share: In [0, 1]; the fair share is 1/K.

    Returns:
        A count in [0, K] and a share in [0, 1].

    Raises:
        TypeError: The points are not floating point, or the radius or share is no number.
        ValueError: No samples or no centres, shapes that do not fit, NaN or infinity.

    Example:
        >>> samples = torch.tensor([[0.1, 0.0], [0.0, 0.2], [4.0, 0.0], [9.0, 9.0]])
        >>> centers = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
        >>> mode_coverage(samples, centers, radius=0.5)
        ModeCoverage(modes=2, good_share=0.75)
        >>> mode_coverage(samples, centers, radius=0.5, least_share=0.4).modes
        1
    """
    check_number("radius", radius, least=0)
    check_number("least_share", least_share, least=0, most=1)
    shapes = f"{tuple(samples.shape)} and {tuple(centers.shape)}"
    if samples.ndim != 2 or centers.ndim != 2 or samples.shape[1] != centers.shape[1]:
        raise ValueError(f"expected samples (N, D) and centers (K, D), got {shapes}")
    if samples.numel() == 0 or centers.numel() == 0:
        raise ValueError(f"expected at least one sample and one centre, got {shapes}")
    check_finite("samples", samples)
    check_finite("centers", centers)
    distances_NK = torch.cdist(
        samples.double(), centers.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    distance_N, nearest_N = distances_NK.min(1)
    good_N = distance_N <= radius
    good_K = torch.bincount(nearest_N[good_N], minlength=len(centers))
    covered_K = (good_K > 0) & (good_K >= least_share * len(samples))
    return ModeCoverage(int(covered_K.sum()), good_N.double().mean().item())
