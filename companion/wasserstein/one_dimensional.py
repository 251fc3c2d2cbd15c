"""Transport on the line, where sorting solves it, and along random lines.

    W_p(x, y) = ( ∫₀¹ |F⁻¹(q) − G⁻¹(q)|^p dq )^(1/p)

Source: Peyré & Cuturi 2019, arXiv:1803.00567, Remark 2.30 (the line) and §10.4 (slices).
Where we differ from POT: W_p itself, not its p-th power.
Chapter: course/02_wasserstein.ipynb.  Dimension key: n and m samples, d coordinates.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import typed

__all__ = ["sliced_wasserstein", "wasserstein_1d"]


@typed
def wasserstein_1d(
    x: Float[Tensor, "*batch n"],
    y: Float[Tensor, "*batch m"],
    *,
    p: float = 1,
    x_weights: Float[Tensor, "*batch n"] | None = None,
    y_weights: Float[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    """W_p between samples on the line: sort both, match equal quantiles.

    O(n log n). Differentiable in samples and weights; where W_p = 0 the gradient returned is 0.

    Args:
        x, y: Samples along the last axis; the other axes are a batch and broadcast.
        p: Power, 1 <= p < inf.
        x_weights, y_weights: Weights >= 0, uniform if None. Each is divided by its sum, as
            scipy does, so counts will do.

    Returns:
        The distance in the samples' units and dtype (weights are summed in float64).

    Raises:
        TypeError: If samples or weights are not floating point.
        ValueError: For empty samples, ``p`` < 1, shapes that do not fit, or bad weights.

    Example:
        >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([5.0, 6.0]), p=2)
        tensor(5.)
    """
    _check_samples(x, y, p)
    gap, mass = _quantile_gaps(x, y, x_weights, y_weights)
    return _mean_power(gap, mass, p, dim=(-1,)).to(torch.result_type(x, y))


@typed
def sliced_wasserstein(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    p: float = 2,
    num_projections: int = 128,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """W_p averaged over random lines through the origin.

        ( mean over directions θ of W_p(⟨x, θ⟩, ⟨y, θ⟩)^p )^(1/p),    θ uniform on the sphere

    Source: Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3; the same average as POT's.
    At most W_p(x, y), since a projection shortens every move. Differentiable.

    Args:
        x, y: Samples in the rows, uniform weights.
        p: Power, 1 <= p < inf.
        num_projections: Directions drawn, at least 1.
        generator: Source of the directions, on its own device; None is torch's default.

    Raises:
        TypeError, ValueError: As ``wasserstein_1d``, or if the widths d differ.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> sliced_wasserstein(x, x + 3, num_projections=4)
        tensor(3.)
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise ValueError(
            f"x and y: expected shapes (n, d) and (m, d), got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if num_projections < 1:
        raise ValueError(f"num_projections: expected at least 1, got {num_projections}")
    _check_samples(x.mT, y.mT, p)
    device = x.device if generator is None else generator.device
    directions = torch.randn(
        num_projections, x.shape[1], generator=generator, dtype=x.dtype, device=device
    ).to(x.device)
    directions = directions / directions.norm(dim=1, keepdim=True)
    gap, mass = _quantile_gaps(directions @ x.mT, directions @ y.mT, None, None)
    return _mean_power(gap, mass / num_projections, p, dim=(-2, -1)).to(x.dtype)


def _quantile_gaps(
    x: Tensor, y: Tensor, x_weights: Tensor | None, y_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """|F⁻¹ − G⁻¹| on the intervals of q where it is constant, and their lengths."""
    batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    x, y = x.expand(*batch, -1), y.expand(*batch, -1)
    if x_weights is None and y_weights is None and x.shape == y.shape:
        x_sorted, y_sorted = torch.stack([x, y]).sort(-1).values  # one call uses more threads
        return (x_sorted - y_sorted).abs(), x.new_tensor(1 / x.shape[-1])
    x_sorted, x_levels = _quantile_steps(x, x_weights, "x_weights")
    y_sorted, y_levels = _quantile_steps(y, y_weights, "y_weights")
    levels = torch.cat([x_levels, y_levels], -1).sort(-1).values
    mass = levels.diff(dim=-1, prepend=torch.zeros_like(levels[..., :1]))
    gap = _quantile(levels, x_sorted, x_levels) - _quantile(levels, y_sorted, y_levels)
    return gap.abs(), mass


def _quantile_steps(x: Tensor, weights: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Sorted samples and, for each, F(sample) as a running sum in float64."""
    n = x.shape[-1]
    if weights is None:
        weights = x.new_ones(n)
    _check_weights(weights, n, name)
    x_sorted, order = x.sort(-1)
    sums = weights.double().expand(x.shape).gather(-1, order).cumsum(-1)
    return x_sorted, sums / sums[..., -1:]


def _quantile(levels: Tensor, x_sorted: Tensor, x_levels: Tensor) -> Tensor:
    """F⁻¹(q) = the first sample with F(sample) >= q."""
    index = torch.searchsorted(x_levels.detach(), levels.detach())
    return x_sorted.gather(-1, index.clamp(max=x_sorted.shape[-1] - 1))


def _mean_power(gap: Tensor, mass: Tensor, p: float, dim: tuple[int, ...]) -> Tensor:
    """(Σ mass · gap^p)^(1/p), without overflow, and with gradient 0 where the sum is 0."""
    scale = gap.detach().amax(dim, keepdim=True).clamp_min(torch.finfo(gap.dtype).tiny)
    total = (mass * (gap / scale) ** p).sum(dim)
    # d/ds s^(1/p) is infinite at s = 0, and inf · 0 is NaN: take the root of 1 there instead.
    is_zero = total == 0
    root = total.masked_fill(is_zero, 1) ** (1 / p)
    return root.masked_fill(is_zero, 0) * scale.reshape(root.shape)


def _check_samples(x: Tensor, y: Tensor, p: float) -> None:
    for name, value in (("x", x), ("y", y)):
        if not value.is_floating_point():
            raise TypeError(f"{name}: expected floating-point samples, got {value.dtype}")
        if value.ndim == 0 or value.shape[-1] == 0:
            raise ValueError(
                f"{name}: expected at least one sample, got shape {tuple(value.shape)}"
            )
    if not 1 <= p < math.inf:
        raise ValueError(f"p: expected 1 <= p < inf, got {p}")


def _check_weights(weights: Tensor, n: int, name: str) -> None:
    if not weights.is_floating_point():
        raise TypeError(f"{name}: expected floating-point weights, got {weights.dtype}")
    if weights.ndim == 0 or weights.shape[-1] != n:
        raise ValueError(f"{name}: expected {n} weights, got shape {tuple(weights.shape)}")
    low, high = weights.aminmax()
    if not (low >= 0 and high.isfinite()):
        raise ValueError(f"{name}: expected finite weights >= 0, got from {low:.3g} to {high:.3g}")
    if (weights.sum(-1) == 0).any():
        raise ValueError(f"{name}: expected a positive sum of weights, got 0")
