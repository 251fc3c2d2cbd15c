"""Exact transport between weighted points, with potentials that prove it optimal.

The linear program has n·m unknowns, but an optimal plan needs only n + m − 1 of them: the
pairs where the dual constraint f_i + g_j ≤ C_ij is tight. So we solve the program on few
pairs, look for pairs whose constraint the potentials break, add those, and solve again. When
none is broken, the potentials are feasible for the whole problem and the plan is optimal.

Source: Peyré & Cuturi 2019, arXiv:1803.00567, §3.1-3.2 (duality as a certificate);
delayed column generation: Bertsimas & Tsitsiklis 1997, §6.1. POT uses the network simplex.
Chapter: course/02_wasserstein.ipynb.  Dimension key: n sources, m targets.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from companion.wasserstein.entropic import scaling_iterations
from companion.wasserstein.linear_programs import HIGHS_OPTIONS, c_transform, single_problem
from companion.wasserstein.problem import Transport

__all__ = ["exact_transport"]

FEW_PAIRS = 1000  # solved in one go
PAIRS_PER_POINT = 12  # first guess: the most promising partners of each point
NEW_PAIRS_PER_POINT = 3  # then, at most, the worst broken constraints of each point
BROKEN = 1e-12  # relative to the largest cost


def exact_transport(
    a: Float[Tensor, "n"], b: Float[Tensor, "m"], cost: Float[Tensor, "n m"]
) -> Transport:
    """An optimal plan, its cost and optimal potentials, exact up to float64 rounding.

    The potentials are feasible at every pair, those of zero-weight points included. Computed
    in float64 on the CPU, returned with ``cost``'s dtype and device. ``Transport.cost`` is
    differentiable in ``cost`` (its derivative is the plan); the derivative in the weights is
    (f, g) up to a constant, and no gradient flows there.

    Args:
        a: Source weights, >= 0; zeros are allowed.
        b: Target weights, >= 0, with the same sum as ``a``.
        cost: Finite costs of any sign.

    Raises:
        TypeError, ValueError: As ``check_problem``.
        RuntimeError: If HiGHS does not report an optimum.

    Example:
        >>> a, b = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> plan, cost, f, g = exact_transport(a, b, torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        >>> plan.tolist(), cost.item()
        ([[0.25, 0.25], [0.0, 0.5]], 0.5)
        >>> (a @ f + b @ g).item()
        0.5
    """
    a64, b64, cost64 = single_problem(a, b, cost)
    rows, columns = a64 > 0, b64 > 0
    plan, f = _column_generation(a64[rows], b64[columns], cost64[rows][:, columns])
    full_plan = torch.zeros_like(cost64)
    full_plan[rows[:, None] & columns] = plan.flatten()
    # A c-transform in each direction extends the potentials to zero-weight points.
    g = c_transform(f, cost64[rows])
    f = c_transform(g, cost64.mT)
    full_plan = full_plan.to(cost.device)
    total = (full_plan * cost.double()).sum()
    return Transport(
        full_plan.to(cost), total.to(cost.dtype), (f - f[0]).to(cost), (g + f[0]).to(cost)
    )


def _column_generation(a: Tensor, b: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Plan and row potential of the problem with positive weights."""
    scale = cost.abs().max().clamp_min(torch.finfo(cost.dtype).tiny)
    cost_nm = (cost / scale).numpy()
    mass = a.sum()  # HiGHS is fastest, by ten times, when the weights sum to 1
    weights = (torch.cat([a, b]) / mass).numpy()
    used = np.zeros(cost_nm.shape, dtype=bool)
    used[_staircase(a.numpy(), b.numpy())] = True  # a feasible plan, so every program has one
    new = _first_pairs(a, b, cost / scale)
    while new.any():
        used |= new
        pairs = np.nonzero(used)
        values, f, g = _solve_on(pairs, weights, cost_nm)
        reduced = cost_nm - f[:, None] - g
        new = _smallest(reduced, NEW_PAIRS_PER_POINT) & (reduced < -BROKEN) & ~used
    plan = np.zeros_like(cost_nm)
    plan[pairs] = values
    return torch.from_numpy(plan) * mass, torch.from_numpy(f) * scale


def _first_pairs(a: Tensor, b: Tensor, cost: Tensor) -> np.ndarray:
    """Pairs whose constraint is nearly tight for the potentials of a short Sinkhorn run."""
    if cost.numel() <= FEW_PAIRS:
        return np.ones(cost.shape, dtype=bool)
    spread = (cost.max() - cost.min()).item()
    f, g, _, _ = scaling_iterations(
        a / a.sum(), b / b.sum(), cost, max(0.002 * spread, 1e-9), tol=1e-3, max_iter=200
    )
    return _smallest((cost - f[:, None] - g).numpy(), PAIRS_PER_POINT)


def _solve_on(
    pairs: tuple[np.ndarray, np.ndarray], weights: np.ndarray, cost: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The linear program restricted to some pairs: masses on them, and both potentials."""
    (n, m), count = cost.shape, len(pairs[0])
    # Pair (i, j) has two ones in A: in row i and in row n + j.
    ones_at = np.stack([pairs[0], n + pairs[1]], axis=1).ravel()
    matrix = sparse.csc_array(
        (np.ones(2 * count), ones_at, np.arange(0, 2 * count + 1, 2)), shape=(n + m, count)
    )
    result = linprog(
        cost[pairs], A_eq=matrix, b_eq=weights, method="highs-ds", options=HIGHS_OPTIONS
    )
    if result.status != 0:
        raise RuntimeError(f"HiGHS stopped on {count} pairs: {result.message}")
    f, g = np.split(result.eqlin.marginals, [n])
    return result.x, f, g


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Mask of the ``count`` smallest entries of each row and of each column."""
    mask = np.zeros(values.shape, dtype=bool)
    for axis in (0, 1):
        last = min(count, values.shape[axis]) - 1
        order = np.argpartition(values, last, axis=axis)
        np.put_along_axis(mask, np.take(order, range(last + 1), axis=axis), True, axis=axis)
    return mask


def _staircase(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The n + m − 1 pairs of the north-west corner plan: a path from (0, 0) to (n−1, m−1)."""
    down = np.cumsum(a)[:-1]
    right = np.cumsum(b)[:-1]
    is_down = np.argsort(np.concatenate([down, right]), kind="stable") < len(down)
    rows = np.concatenate([[0], np.cumsum(is_down)])
    columns = np.concatenate([[0], np.cumsum(~is_down)])
    return rows, columns
