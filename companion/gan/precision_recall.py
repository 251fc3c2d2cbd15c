"""Are the fakes realistic, and are all of the reals within reach? Two numbers instead of one.

    r_k(a)      distance from sample a to the k-th nearest other sample of its own set A
    M_k(A)      union of the balls around each a in A with radius r_k(a): the set's manifold
    precision   share of the fakes in M_k(real)
    recall      share of the reals in M_k(fake)

Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, §2.
Where we differ: distances are taken from differences, not as |x|² + |y|² − 2⟨x, y⟩. That one is a
matrix product and about four times as fast, but it cancels: equal samples get a distance other than
0, and ties are decided by rounding.
Chapter: course/01_gan.ipynb.  Dimension key: N reals, M fakes, D coordinates.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_count, check_finite, typed

__all__ = ["PrecisionRecall", "precision_recall"]

BLOCK_NUMBERS = 2**22  # 32 MiB of distances at a time


class PrecisionRecall(NamedTuple):
    """Share of the fakes that look real, and share of the reals that the fakes reach."""

    precision: float
    recall: float


@typed
@torch.no_grad()
def precision_recall(
    real: Float[Tensor, "N *shape"], fake: Float[Tensor, "M *shape"], *, neighbours: int = 3
) -> PrecisionRecall:
    """Precision and recall of a generator, by k-nearest-neighbour balls.

    Args:
        real, fake: Samples along the first axis, each flattened. What a distance means is for
            the caller to decide: the paper takes features of a VGG network, not pixels.
        neighbours: k, at least 1. A sample is not its own neighbour, but an equal one is: among
            more than k copies the radius is 0, and the ball holds the copies alone.

    Returns:
        Two shares in [0, 1]. A sample on the edge of a ball is inside. Computed in float64 and in
        blocks of rows; differences up to about 1e150.

    Raises:
        TypeError: The samples are not floating point, or ``neighbours`` is no integer.
        ValueError: At most ``neighbours`` samples in a set, shapes that do not fit, NaN or
            infinity, or distances that overflow.

    Example:
        >>> real = torch.tensor([0.0, 1.0, 2.0, 10.0])  # radii with k = 1: 1, 1, 1, 8
        >>> precision_recall(real, torch.tensor([0.5, 0.6, 1.9]), neighbours=1)
        PrecisionRecall(precision=1.0, recall=0.5)
    """
    real, fake = _flattened(real, fake, neighbours)
    real_radius_N, fake_radius_M = _radii(real, neighbours), _radii(fake, neighbours)
    real_reached_N = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    realistic = 0
    for rows, distances_BN in _blocks(fake, real):
        realistic += (distances_BN <= real_radius_N).any(1).sum().item()
        real_reached_N |= (distances_BN <= fake_radius_M[rows, None]).any(0)
    return PrecisionRecall(realistic / len(fake), real_reached_N.double().mean().item())


def _radii(samples: Tensor, neighbours: int) -> Tensor:
    """Distance from each sample to the k-th nearest of the others."""
    radii = []
    for rows, distances_BN in _blocks(samples, samples):
        own = torch.arange(rows.start, rows.stop, device=samples.device)[:, None]
        distances_BN.scatter_(1, own, torch.inf)
        radii.append(distances_BN.topk(neighbours, largest=False).values[:, -1])
    radii = torch.cat(radii)
    if not radii.isfinite().all():
        raise ValueError("expected squared distances that float64 holds, got an overflow")
    return radii


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Distances from some rows of ``a`` to all of ``b``, and which rows."""
    size = max(1, BLOCK_NUMBERS // len(b))
    for start in range(0, len(a), size):
        rows = slice(start, min(start + size, len(a)))
        yield rows, torch.cdist(a[rows], b, compute_mode="donot_use_mm_for_euclid_dist")


def _flattened(real: Tensor, fake: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    check_count("neighbours", neighbours)
    shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
    if real.ndim == 0 or fake.ndim == 0 or real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"real and fake: expected samples of one shape, got {shapes}")
    if 0 in real.shape[1:]:
        raise ValueError(f"real and fake: expected at least one number a sample, got {shapes}")
    for name, samples in (("real", real), ("fake", fake)):
        if len(samples) <= neighbours:
            raise ValueError(
                f"{name}: expected more than {neighbours} samples for {neighbours} neighbours, "
                f"got {len(samples)}"
            )
        check_finite(name, samples)
    return real.reshape(len(real), -1).double(), fake.reshape(len(fake), -1).double()
