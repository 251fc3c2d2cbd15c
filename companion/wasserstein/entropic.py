"""Entropic transport by Sinkhorn's iteration: first as it is written, then as it is run.

    min <Γ, C> + ε KL(Γ | a⊗b)  over Γ ≥ 0, Γ1 = a, Γᵀ1 = b,     KL(Γ|Q) = Σ Γ log(Γ/Q)
    Γ_ij = a_i b_j exp((f_i + g_j − C_ij) / ε)

Source: Cuturi 2013, arXiv:1306.0895; Peyré & Cuturi 2019, arXiv:1803.00567, §4.1-4.4.
Where we differ: the entropy is relative to a⊗b. Since Γ has marginals a and b, this equals
Σ Γ log Γ up to a constant, so the plan is the one of POT with ``reg = ε``; but f and g stay
finite where a weight is zero and tend to Kantorovich's potentials as ε → 0. POT's scaling is
``log_u = f / ε + log a``.
Chapter: course/02_wasserstein.ipynb.  Dimension key: n sources, m targets.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_count, check_number, typed
from companion.wasserstein.implicit import ImplicitPotentials, gibbs_kernel
from companion.wasserstein.problem import Transport, check_problem

__all__ = [
    "check_settings",
    "log_sinkhorn",
    "scaling_iterations",
    "sinkhorn",
    "soft_c_transform",
    "warn_unless_converged",
]


@typed
def soft_c_transform(
    f: Float[Tensor, "*batch n"],
    a: Float[Tensor, "*batch n"],
    cost: Float[Tensor, "*batch n m"],
    *,
    epsilon: float,
) -> Float[Tensor, "*batch m"]:
    """``c_transform`` with a soft minimum: the g that gives the plan the column sums b.

        g_j = −ε log Σ_i a_i exp((f_i − cost_ij) / ε)

    Source: Peyré & Cuturi 2019, §4.4. The other direction is
    ``soft_c_transform(g, b, cost.mT, epsilon=epsilon)``.

    Raises:
        TypeError, ValueError: If ε is no finite number above 0, or f or a has another length.

    Example:
        >>> half, cost = torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> soft_c_transform(torch.zeros(2), half, cost, epsilon=0.1)
        tensor([0.0693, 0.0693])
    """
    check_number("epsilon", epsilon, above=0)
    if f.shape[-1:] != cost.shape[-2:-1] or a.shape[-1:] != f.shape[-1:] or f.shape[-1:] == (0,):
        raise ValueError(
            f"f and a: expected one value for each row of cost {tuple(cost.shape)}, got shapes "
            f"{tuple(f.shape)} and {tuple(a.shape)}"
        )
    log_weights = f / epsilon + a.log()  # log 0 = −inf is meant: no mass, no say
    scores = torch.sub(log_weights[..., :, None], cost, alpha=1 / epsilon)
    return -epsilon * scores.logsumexp(-2)


def log_sinkhorn(
    a: Float[Tensor, "*batch n"],
    b: Float[Tensor, "*batch m"],
    cost: Float[Tensor, "*batch n m"],
    *,
    epsilon: float,
    max_iter: int = 1000,
) -> Transport:
    """Sinkhorn in the log domain: two soft c-transforms, ``max_iter`` times.

    The reference for ``sinkhorn``: the shortest stable form, slow because it takes n·m
    exponentials twice in every iteration. Autograd unrolls it (gradients in zero weights: NaN).

    Args, Raises: As ``sinkhorn``.

    Example:
        >>> half, cost = torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> log_sinkhorn(half, half, cost, epsilon=1.0).plan
        tensor([[0.3655, 0.1345],
                [0.1345, 0.3655]])
    """
    a, b, cost = check_problem(a, b, cost)
    check_settings(epsilon, 0, max_iter)
    f = torch.zeros_like(a)
    for _ in range(max_iter):
        g = soft_c_transform(f, a, cost, epsilon=epsilon)
        f = soft_c_transform(g, b, cost.mT, epsilon=epsilon)
    return _transport(a, b, cost, f, g, epsilon)


def sinkhorn(
    a: Float[Tensor, "*batch n"],
    b: Float[Tensor, "*batch m"],
    cost: Float[Tensor, "*batch n m"],
    *,
    epsilon: float,
    tol: float = 1e-6,
    max_iter: int = 1000,
) -> Transport:
    """Entropic transport: the same iterates as ``log_sinkhorn``, several times faster.

    Differentiable in ``a``, ``b`` and ``cost`` by the implicit function theorem: the backward
    pass solves one m × m linear system, whatever the number of iterations. Gradients are those
    of the converged solution; in the weights they are defined up to a constant.

    Args:
        a, b: Weights >= 0 of equal sums; zeros are allowed. Leading axes are a batch and
            broadcast, so one ``cost`` may serve many histograms.
        cost: Finite costs, float32 or float64, on any device; sets dtype and device.
        epsilon: ε > 0, in the units of ``cost``.
        tol: Stop when every problem's Σ_j |column sum − b_j| is below this.
        max_iter: Number of (g, f) updates at most.

    Returns:
        Transport; ``cost`` is <Γ, C> without the entropy.

    Raises:
        TypeError, ValueError: As ``check_problem``, or for ``epsilon``, ``tol``, ``max_iter``.

    Warns:
        RuntimeWarning: If ``tol`` was not reached in ``max_iter`` iterations.

    Example:
        >>> half, cost = torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> sinkhorn(half, half, cost, epsilon=0.1).cost
        tensor(4.5398e-05)
    """
    a, b, cost = check_problem(a, b, cost)
    check_settings(epsilon, tol, max_iter)
    with torch.no_grad():
        f, g, error, _ = scaling_iterations(a, b, cost, epsilon, tol, max_iter)
    warn_unless_converged(error, epsilon=epsilon, tol=tol, max_iter=max_iter)
    f, g = ImplicitPotentials.apply(a, b, cost, f, g, epsilon)
    return _transport(a, b, cost, f, g, epsilon)


def scaling_iterations(
    a: Tensor,
    b: Tensor,
    cost: Tensor,
    epsilon: float,
    tol: float,
    max_iter: int,
    f: Tensor | None = None,
) -> tuple[Tensor, Tensor, float, int]:
    """Sinkhorn's (f, g) from a first f (zero if None), the marginal error, the iterations used.

    With K = exp((f ⊕ g − C)/ε) held fixed, the potentials f + ε log u and g + ε log v take

        v = 1 / Kᵀ(a u),   u = 1 / K(b v)

    two products with a matrix instead of n·m exponentials. When u or v leaves the range in
    which K's underflow is harmless, the step is taken in the log domain and absorbed into f,
    g and a new K. Source: Schmitzer 2019, arXiv:1610.06519, Algorithm 2; where we differ: the
    step that would overflow is itself done in the log domain, so no ε is too small.
    """
    limit = torch.finfo(cost.dtype).tiny ** -0.25  # K u v loses terms below about √tiny only
    f, kernel_nm = torch.zeros_like(a) if f is None else f, None
    for iteration in range(max_iter + 1):
        if kernel_nm is not None:
            column_sums = ((a * u)[..., None, :] @ kernel_nm)[..., 0, :]  # times b v: the plan's
            error = (b * (v * column_sums - 1).abs()).sum(-1).amax().item()
            if error < tol or iteration == max_iter:
                break
            next_v = 1 / column_sums
            next_u = 1 / (kernel_nm @ (b * next_v)[..., :, None])[..., 0]
            low, high = torch.cat([next_u, next_v], -1).aminmax()
            if low > 1 / limit and high < limit:
                u, v = next_u, next_v
                continue
            f = f + epsilon * u.log()
        g = soft_c_transform(f, a, cost, epsilon=epsilon)
        f = soft_c_transform(g, b, cost.mT, epsilon=epsilon)
        kernel_nm = gibbs_kernel(f, g, cost, epsilon)
        u, v = torch.ones_like(f), torch.ones_like(g)
    return f + epsilon * u.log(), g + epsilon * v.log(), error, iteration


def warn_unless_converged(error: float, *, epsilon: float, tol: float, max_iter: int) -> None:
    """A RuntimeWarning, at the line that called the caller, if ``error`` is not below ``tol``."""
    if not error < tol:
        warnings.warn(
            f"Sinkhorn stopped after {max_iter} iterations with marginal error {error:.2g}, "
            f"expected below tol={tol:.2g}: raise max_iter, tol or epsilon={epsilon:.2g}",
            RuntimeWarning,
            stacklevel=3,
        )


def _transport(
    a: Tensor, b: Tensor, cost: Tensor, f: Tensor, g: Tensor, epsilon: float
) -> Transport:
    plan = a[..., :, None] * b[..., None, :] * gibbs_kernel(f, g, cost, epsilon)
    total = torch.linalg.vecdot(plan.flatten(-2), cost.flatten(-2))
    return Transport(plan, total, f - f[..., :1], g + f[..., :1])


def check_settings(epsilon: float, tol: float, max_iter: int) -> None:
    """Raises TypeError or ValueError unless ε > 0, tol >= 0 and max_iter >= 1."""
    check_number("epsilon", epsilon, above=0)
    check_number("tol", tol, least=0)
    check_count("max_iter", max_iter)
