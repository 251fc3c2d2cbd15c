"""Gradients of Sinkhorn's potentials through the equations they solve.

The converged f, g satisfy, with Q_ij = exp((f_i + g_j − C_ij)/ε),

    Σ_j Q_ij b_j = 1  for every i,        Σ_i a_i Q_ij = 1  for every j.

Differentiating both gives one linear system for (df, dg); the backward pass solves its
transpose. Source: Peyré & Cuturi 2019, arXiv:1803.00567, §9.1.3; Eisenberger et al. 2022,
arXiv:2205.06688. Where we differ: equations divided by the weights, so zero weights are fine.
Chapter: course/02_wasserstein.ipynb.  Dimension key: n sources, m targets.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["ImplicitPotentials", "gibbs_kernel"]


def gibbs_kernel(f: Tensor, g: Tensor, cost: Tensor, epsilon: float) -> Tensor:
    """exp((f_i + g_j − cost_ij) / ε), cut off far above any value that carries mass."""
    potentials = (f / epsilon)[..., :, None] + (g / epsilon)[..., None, :]
    exponent = potentials.sub_(cost, alpha=1 / epsilon)
    # Only where a_i and b_j are both (nearly) zero can this be large; 0 · inf would be NaN.
    return exponent.clamp_(max=math.log(torch.finfo(cost.dtype).max) / 2).exp_()


def _solve(system: Tensor, right: Tensor) -> Tensor:
    """The solution of a regular system; of a singular one that has solutions, the smallest.

    A plan that falls into k blocks leaves k − 1 more constants free to move from f to g.
    """
    factors, pivots, _ = torch.linalg.lu_factor_ex(system)
    on_diagonal = factors.diagonal(dim1=-2, dim2=-1).abs()
    rounding = 10 * system.shape[-1] * torch.finfo(system.dtype).eps
    singular = ~(on_diagonal.amin(-1) > rounding * on_diagonal.amax(-1))
    solution = torch.linalg.lu_solve(factors, pivots, right[..., None])
    if singular.any():
        inverse = torch.linalg.pinv(system[singular], rtol=rounding)
        solution[singular] = inverse @ right[singular][..., None]
    return solution[..., 0]


class ImplicitPotentials(torch.autograd.Function):
    """Passes the solved (f, g) through; backward is the implicit function theorem.

    What is built on f and g must not depend on the constant that can move between them.
    """

    @staticmethod
    def forward(ctx, a, b, cost, f, g, epsilon):
        ctx.save_for_backward(a, b, cost, f, g)
        ctx.epsilon = epsilon
        return f.clone(), g.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_f, grad_g):
        a, b, cost, f, g = ctx.saved_tensors
        q_nm = gibbs_kernel(f, g, cost, ctx.epsilon)
        by_row = q_nm * b[..., None, :]  # rows sum to 1
        by_column = a[..., :, None] * q_nm  # columns sum to 1
        row_sums, column_sums = by_row.sum(-1), by_column.sum(-2)
        # Transposed: row_sums x + by_column y = grad_f, by_rowᵀ x + column_sums y = grad_g.
        # Eliminate x. The rest is singular (1ᵀ times it is 0), and its right-hand side sums to
        # 0; adding a constant matrix makes it regular and picks the solution with Σ y = 0.
        scaled = by_row / row_sums[..., None]
        system = torch.diag_embed(column_sums) - scaled.mT @ by_column + 1 / b.shape[-1]
        right = grad_g - (scaled.mT @ grad_f[..., None])[..., 0]
        y = _solve(system, right)
        x = (grad_f - (by_column @ y[..., None])[..., 0]) / row_sums
        grad_cost = x[..., :, None] * by_row + by_column * y[..., None, :]
        grad_a = -ctx.epsilon * (q_nm @ y[..., None])[..., 0]
        grad_b = -ctx.epsilon * (q_nm.mT @ x[..., None])[..., 0]
        return grad_a, grad_b, grad_cost, None, None, None
