"""The Sinkhorn divergence: entropic transport with its bias taken out.

    S_ε(x, y) = OT_ε(x, y) − ½ OT_ε(x, x) − ½ OT_ε(y, y)
    OT_ε = min <Γ, C> + ε KL(Γ | a⊗b),     C_ij = ‖x_i − y_j‖^p,     uniform weights

Source: Feydy et al. 2019, arXiv:1810.08278, equations 1-3 and Theorem 1. Where we differ: the
cost has no factor 1/p, so that S_ε → W_p^p as ε → 0.
Chapter: course/02_wasserstein.ipynb.  Dimension key: n and m samples, d coordinates.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_number, check_tensor
from companion.wasserstein.entropic import (
    check_settings,
    scaling_iterations,
    soft_c_transform,
    warn_unless_converged,
)
from companion.wasserstein.implicit import gibbs_kernel

__all__ = ["sinkhorn_divergence"]


def sinkhorn_divergence(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    *,
    epsilon: float,
    p: float = 2,
    tol: float = 1e-6,
    max_iter: int = 1000,
) -> Float[Tensor, "*batch"]:
    """Debiased entropic distance W_p^p: >= 0, and 0 only between equal samples.

    Both hold for the exact minima; numerically S_ε may come out below 0 by rounding and
    ``tol``. Differentiable in ``x`` and ``y`` at the price of one pass: by Danskin's theorem
    the optimal potentials count as constants.

    Args:
        x, y: Samples, float32 or float64; leading axes are a batch.
        epsilon: ε > 0, in units of distance^p.
        p: Power of the Euclidean distance, in [1, 2]; beyond 2 positivity is not guaranteed.
        tol, max_iter: As ``sinkhorn``.

    Raises:
        TypeError: If the samples are not float32 or float64.
        ValueError: For wrong shapes, empty or non-finite samples, ``p`` outside [1, 2], or
            as ``sinkhorn``.

    Warns:
        RuntimeWarning: If ``tol`` was not reached in ``max_iter`` iterations.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> sinkhorn_divergence(x, x + torch.tensor([0.0, 2.0]), epsilon=0.5)
        tensor(4.)
    """
    for name, value in (("x", x), ("y", y)):
        check_tensor(name, value)
        if value.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name}: expected float32 or float64 samples, got {value.dtype}")
        if value.ndim < 2 or value.shape[-2] == 0:
            raise ValueError(
                f"{name}: expected shape (..., samples >= 1, d), got {tuple(value.shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{name}: expected finite samples, got NaN or infinity")
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x and y: expected equal d, got {x.shape[-1]} and {y.shape[-1]}")
    check_settings(epsilon, tol, max_iter)
    check_number("p", p)
    if not 1 <= p <= 2:
        raise ValueError(f"p: expected a number in [1, 2], got {p}")

    settings = {"epsilon": epsilon, "tol": tol, "max_iter": max_iter}
    cost_xx, cost_xy, cost_yy = _powers(x, x, p), _powers(x, y, p), _powers(y, y, p)
    f_x, error_x = _self_potential(cost_xx, **settings)
    g_y, error_y = _self_potential(cost_yy, **settings)
    # x's potential on itself is the one towards y when y = x: a good place to start.
    f, g, error = _potentials(cost_xy, f_x, **settings)
    warn_unless_converged(max(error, error_x, error_y), **settings)
    own = _dual_value(cost_xx, f_x, f_x, epsilon) + _dual_value(cost_yy, g_y, g_y, epsilon)
    return _dual_value(cost_xy, f, g, epsilon) - own / 2


def _powers(x: Tensor, y: Tensor, p: float) -> Tensor:
    # cdist's faster mode, through a matrix product, gives ‖x − x‖ ≠ 0.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** p


@torch.no_grad()
def _self_potential(
    cost: Tensor, *, epsilon: float, tol: float, max_iter: int
) -> tuple[Tensor, float]:
    """The f of OT_ε(x, x), where f = g, and its error: f ← (f + T f)/2, T the soft c-transform.

    Source: Feydy et al. 2019, §3.1. Near the solution each step halves the error at least,
    because the kernel exp(−C/ε) is positive; plain Sinkhorn may need thousands.
    """
    a = cost.new_full(cost.shape[:-1], 1 / cost.shape[-1])
    f = torch.zeros_like(a)
    # The log domain cannot tell errors below this from rounding.
    rounding = 8 * torch.finfo(cost.dtype).eps * (cost.max().item() / epsilon)
    for _ in range(max_iter):
        transformed = soft_c_transform(f, a, cost, epsilon=epsilon)
        error = (a * torch.expm1((f - transformed) / epsilon).abs()).sum(-1).max().item()
        f = (f + transformed) / 2
        error = max(0.0, error - rounding)
        if error < tol:
            break
    return f, error


@torch.no_grad()
def _potentials(
    cost: Tensor, start: Tensor, *, epsilon: float, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, float]:
    a = cost.new_full(cost.shape[:-1], 1 / cost.shape[-2])
    b = cost.new_full((*cost.shape[:-2], cost.shape[-1]), 1 / cost.shape[-1])
    f, g, error, _ = scaling_iterations(a, b, cost, epsilon, tol, max_iter, start)
    return f, g, error


def _dual_value(cost: Tensor, f: Tensor, g: Tensor, epsilon: float) -> Tensor:
    """<a, f> + <b, g> − ε Σ (Γ_ij − a_i b_j), Γ built from f and g: OT_ε at its maximum."""
    mass = gibbs_kernel(f, g, cost, epsilon).mean((-2, -1))
    return f.mean(-1) + g.mean(-1) - epsilon * (mass - 1)
