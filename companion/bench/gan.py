"""The Fréchet distance beside SciPy's matrix root, precision and recall beside plain PyTorch.

In float64 on all sides. The usual code for the Fréchet distance runs on the CPU, whatever made the
samples; the time to bring them there is left out.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from companion.gan.frechet import frechet_distance
from companion.gan.precision_recall import PrecisionRecall, precision_recall
from companion.measure.workload import Workload

__all__ = ["workloads"]

WIDTH = 1024
FRECHET = {2048: 3.0, 250: 50.0}  # samples of each: bar
NEIGHBOURS = 3
MANIFOLD = (4000, 64)


def workloads(device: str) -> Iterator[Workload]:
    """The Fréchet distance for more and for fewer samples than coordinates; the manifolds."""
    for n, bar in FRECHET.items():
        yield frechet(*_samples(n, WIDTH, device), bar=bar)
    yield manifolds(*_samples(*MANIFOLD, device))


def frechet(x_ND: Tensor, y_MD: Tensor, *, bar: float | None = None) -> Workload:
    """Both sides start from the samples, so that both pay for means and covariances."""
    return Workload(
        name=f"frechet_distance N={len(x_ND)}, M={len(y_MD)}, D={x_ND.shape[1]}",
        peer="numpy.cov, scipy.linalg.sqrtm",
        ours=lambda: frechet_distance(x_ND, y_MD).item(),
        theirs=_by_matrix_root(x_ND.cpu().numpy(), y_MD.cpu().numpy()),
        # A root loses half of the digits where a covariance is singular: √ε is 1.5e-8.
        equal=lambda ours, theirs: math.isclose(ours, theirs, rel_tol=1e-6),
        bar=bar,
    )


def manifolds(real: Tensor, fake: Tensor) -> Workload:
    """All distances at once, as matrix products: faster, but ties are left to rounding."""
    return Workload(
        name=f"precision_recall N={len(real)}, M={len(fake)}, D={real.shape[1]}, k={NEIGHBOURS}",
        peer="torch.cdist and topk, whole matrices",
        ours=lambda: precision_recall(real, fake, neighbours=NEIGHBOURS),
        theirs=lambda: _at_once(real, fake),
        equal=PrecisionRecall.__eq__,
    )


def _by_matrix_root(x_ND: np.ndarray, y_MD: np.ndarray) -> Callable[[], float]:
    def run() -> float:
        gap_D = x_ND.mean(0) - y_MD.mean(0)
        x_DD, y_DD = np.cov(x_ND, rowvar=False), np.cov(y_MD, rowvar=False)
        root_DD = scipy.linalg.sqrtm(x_DD @ y_DD).real
        return float(gap_D @ gap_D + np.trace(x_DD) + np.trace(y_DD) - 2 * np.trace(root_DD))

    return run


def _at_once(real: Tensor, fake: Tensor) -> PrecisionRecall:
    # The nearest of all is the sample itself, so its k-th neighbour is number k + 1.
    k = NEIGHBOURS + 1
    real_radius_N = torch.cdist(real, real).topk(k, largest=False).values[:, -1]
    fake_radius_M = torch.cdist(fake, fake).topk(k, largest=False).values[:, -1]
    distances_MN = torch.cdist(fake, real)
    realistic_M = (distances_MN <= real_radius_N).any(1)
    reached_N = (distances_MN <= fake_radius_M[:, None]).any(0)
    return PrecisionRecall(realistic_M.double().mean().item(), reached_N.double().mean().item())


def _samples(n: int, d: int, device: str) -> tuple[Tensor, Tensor]:
    """Two clouds whose means and covariances differ."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x.to(device), (0.1 + y * torch.linspace(0.5, 1.5, d, dtype=y.dtype)).to(device)
