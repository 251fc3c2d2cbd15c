"""What the discriminator learns at its best, and what the generator then minimises.

    D*(x) = p(x) / (p(x) + q(x))
    max_D V(D, G) = −log 4 + 2 JSD(p ‖ q)

Source: Goodfellow et al. 2014, arXiv:1406.2661, §4.1, Proposition 1 and Theorem 1.
Chapter: course/01_gan.ipynb.  Dimension key: U places of the support that p and q share.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import typed
from companion.training.precision import wide

__all__ = ["jensen_shannon", "optimal_discriminator"]


@typed
def optimal_discriminator(
    p: Float[Tensor, "*shape"], q: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The best discriminator's probability that a sample is real, place by place.

        D* = p / (p + q),    ½ where both are 0

    Where neither density puts samples, any D is as good: ½ is a choice.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, §4.1, Proposition 1.

    Args:
        p, q: Densities or histograms of the real and of the generated data, >= 0; they broadcast.
            Not normalised here: counts of two samples of one size will do.

    Returns:
        Values in [0, 1], in the inputs' dtype. Differentiable; the gradient is 0 where both are 0.

    Raises:
        TypeError: The densities are not floating point.
        ValueError: Negative, infinite or NaN densities, or shapes that do not broadcast.

    Example:
        >>> optimal_discriminator(torch.tensor([0.2, 0.6, 0.0]), torch.tensor([0.2, 0.0, 0.0]))
        tensor([0.5000, 1.0000, 0.5000])
    """
    _check_densities(p, q)
    _common_shape(p.shape, q.shape)
    dtype = torch.result_type(p, q)
    p, q = wide(p), wide(q)
    # D* is that of p/c and q/c for any c > 0, so c is a constant to autograd; with c the greater
    # of the two, the sum is in [1, 2].
    scale = torch.maximum(p, q).detach()
    neither = scale == 0
    scale = scale.masked_fill(neither, 1)
    p, q = p / scale, q / scale
    best = p / (p + q).masked_fill(neither, 1)
    return best.masked_fill(neither, 0.5).to(dtype)


@typed
def jensen_shannon(
    p: Float[Tensor, "*batch U"], q: Float[Tensor, "*batch U"]
) -> Float[Tensor, "*batch"]:
    """Jensen–Shannon divergence of weights on one support, in nats.

        JSD(p ‖ q) = ½ Σ p log(p / m) + ½ Σ q log(q / m),    m = (p + q) / 2,  0 log 0 = 0

    Between 0 (p = q) and log 2 (no place in common, however far apart the places are).

    Source: Lin 1991, IEEE Trans. Inf. Theory 37(1), with weights ½.
    Where we differ from scipy: its ``jensenshannon`` is the square root of this.

    Args:
        p, q: Weights >= 0 along the last axis; the other axes are a batch and broadcast. Each row
            is divided by its sum, so counts will do.

    Returns:
        The divergence in the inputs' dtype, computed in float64. Differentiable: a weight of 0 is
        held, with gradient 0. (From the right the slope there is −∞ wherever the other
        distribution has mass.)

    Raises:
        TypeError: The weights are not floating point.
        ValueError: Negative, infinite or NaN weights; no places, or a row of zeros; shapes that
            do not fit.

    Example:
        >>> jensen_shannon(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 7.0]))  # log 2
        tensor(0.6931)
    """
    _check_densities(p, q)
    _check_rows(p, q)
    dtype = torch.result_type(p, q)
    p, q = _normalised(p, "p"), _normalised(q, "q")
    divergence = (_entropy_from_middle(p, q) + _entropy_from_middle(q, p)) / 2
    return divergence.clamp_min(0).to(dtype)  # it is at least 0; its sum is rounded


def _entropy_from_middle(p: Tensor, q: Tensor) -> Tensor:
    """Σ p log(p / m): p + q is at least p, so that it is not 0 where p is not, as m might be."""
    p, q = torch.broadcast_tensors(p, q)
    nowhere = p == 0
    share = p / (p + q).masked_fill(nowhere, 1)
    return (p * (2 * share.masked_fill(nowhere, 0.5)).log()).sum(-1)


def _normalised(weights: Tensor, name: str) -> Tensor:
    """Rows of sum 1 in float64; places of weight 0 are cut from the graph."""
    weights = weights.double()
    weights = torch.where(weights > 0, weights, 0)
    largest = weights.detach().amax(-1, keepdim=True)
    if (largest == 0).any():
        raise ValueError(f"{name}: expected a positive sum of weights in each row, got 0")
    weights = weights / largest  # the sum may otherwise overflow
    return weights / weights.sum(-1, keepdim=True)


def _check_densities(p: Tensor, q: Tensor) -> None:
    for name, values in (("p", p), ("q", q)):
        if not ((values >= 0) & values.isfinite()).all():
            low, high = values.aminmax()
            raise ValueError(f"{name}: expected finite numbers >= 0, got from {low:g} to {high:g}")


def _check_rows(p: Tensor, q: Tensor) -> None:
    shapes = f"{tuple(p.shape)} and {tuple(q.shape)}"
    if p.ndim == 0 or q.ndim == 0 or p.shape[-1] != q.shape[-1] or p.shape[-1] == 0:
        raise ValueError(f"p and q: expected weights on the same places, got shapes {shapes}")
    _common_shape(p.shape[:-1], q.shape[:-1])


def _common_shape(p: torch.Size, q: torch.Size) -> None:
    try:
        torch.broadcast_shapes(p, q)
    except RuntimeError:
        raise ValueError(
            f"p and q: expected shapes that broadcast, got {tuple(p)} and {tuple(q)}"
        ) from None
