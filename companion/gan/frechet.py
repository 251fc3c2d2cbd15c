"""How far apart two samples are, if each is summed up by a Gaussian.

    d² = |m₁ − m₂|² + tr S₁ + tr S₂ − 2 tr (S₁ S₂)^{1/2}

Source: Dowson & Landau 1982, J. Multivariate Analysis 12(3); Heusel et al. 2017,
arXiv:1706.08500, Eq. 6, who take the samples from a layer of an Inception network (FID).
Where we differ from the usual code: no square root of a matrix. S₁S₂ is not symmetric, and its
root turns complex by rounding where a covariance is singular, as it always is for N ≤ D.
Chapter: course/01_gan.ipynb.  Dimension key: N and M samples, D coordinates.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_finite, typed

__all__ = ["frechet_distance"]


@typed
@torch.no_grad()
def frechet_distance(x_ND: Float[Tensor, "N D"], y_MD: Float[Tensor, "M D"]) -> Float[Tensor, ""]:
    """The squared Fréchet distance between Gaussians fitted to two samples.

        tr (S₁ S₂)^{1/2} = ‖F₁ F₂ᵀ‖_*  (the sum of the singular values),    Sᵢ = Fᵢᵀ Fᵢ

    Proof. The squared singular values of F₁F₂ᵀ are the eigenvalues of F₁ (F₂ᵀF₂ F₁ᵀ) = F₁ S₂ F₁ᵀ.
    AB and BA have the same eigenvalues other than 0; with A = F₁ and B = S₂F₁ᵀ, BA is S₂S₁.
    So they are the eigenvalues of S₁S₂, all ≥ 0, and their roots sum to tr (S₁S₂)^{1/2}.

    F is the centred sample over √(N−1), which is short for N ≤ D; for N > D, the R of its QR
    decomposition, which has D rows and the same FᵀF. No covariance is formed, so singular ones
    do no harm, and small singular values keep the digits that squaring would take.

    Args:
        x_ND, y_MD: Samples in the rows, at least two of each.

    Returns:
        A float64 scalar, whatever the inputs: float16 would leave three digits of it, and none
        beyond 65 504. At least 0, in the samples' squared unit. No gradient: this is a measure to
        report, not a loss.

    Raises:
        TypeError: The samples are not floating point.
        ValueError: Fewer than two samples, shapes that do not fit, NaN or infinity.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0]])  # covariance diag(2, 0)
        >>> frechet_distance(x, 2 * x + 1)  # means (1, 0) and (3, 1); covariance diag(8, 0)
        tensor(7., dtype=torch.float64)
    """
    _check_samples(x_ND, y_MD)
    (x_mean_D, x_factor), (y_mean_D, y_factor) = _gaussian(x_ND), _gaussian(y_MD)
    means = (x_mean_D - y_mean_D).square().sum()
    traces = x_factor.square().sum() + y_factor.square().sum()
    cross = torch.linalg.svdvals(x_factor @ y_factor.mT).sum()
    # In Frobenius norms ‖F₁F₂ᵀ‖_* ≤ ‖F₁‖ ‖F₂‖ ≤ (‖F₁‖² + ‖F₂‖²) / 2: below 0 is only rounding.
    return means + (traces - 2 * cross).clamp_min(0)


def _gaussian(samples_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and a factor F of the covariance FᵀF with min(N, D) rows."""
    samples_ND = samples_ND.double()
    n, d = samples_ND.shape
    mean_D = samples_ND.mean(0)
    factor = (samples_ND - mean_D) / (n - 1) ** 0.5
    return mean_D, factor if n <= d else torch.linalg.qr(factor, mode="r").R


def _check_samples(x_ND: Tensor, y_MD: Tensor) -> None:
    shapes = f"{tuple(x_ND.shape)} and {tuple(y_MD.shape)}"
    if x_ND.ndim != 2 or y_MD.ndim != 2 or x_ND.shape[1] != y_MD.shape[1] or x_ND.shape[1] == 0:
        raise ValueError(f"expected samples of shapes (N, D) and (M, D), got {shapes}")
    if len(x_ND) < 2 or len(y_MD) < 2:
        raise ValueError(f"expected at least two samples of each for a covariance, got {shapes}")
    check_finite("x_ND", x_ND)
    check_finite("y_MD", y_MD)
