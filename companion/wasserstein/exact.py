"""Exact transport between weighted points, with potentials that prove it optimal.

POT's network simplex finds the pairs that an optimal plan uses; the masses on them follow by
subtraction. Potentials f, g with f_i + g_j ≤ C_ij then bound how much a better plan could
save: no more than <Γ, slack>, the mass on each pair times slack_ij = C_ij − f_i − g_j ≥ 0.

Where costs differ by many orders of magnitude, a float64 potential as large as the largest
cost cannot tell the small ones apart, and the bound says so. The same problem with the slack
in place of the cost has the same optimal plans and starts from small numbers. In it, a cost
far above all slack in use is lowered to a cap: no plan gets dearer, so that one that is
optimal and uses no capped pair was optimal before. (Iterative refinement, as for systems of
linear equations: Gleixner, Steffy & Wolter 2016, doi:10.1287/ijoc.2016.0692, with a cap where
they scale.)

Source: Peyré & Cuturi 2019, arXiv:1803.00567, §3.1-3.2 (duality as a certificate), §3.5
(network simplex); Bonneel et al. 2011 (the solver in POT).
Chapter: course/02_wasserstein.ipynb.  Dimension key: n sources, m targets.
"""

import math
import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from companion.wasserstein.basic_plan import basic_plan
from companion.wasserstein.linear_programs import c_transform, single_problem
from companion.wasserstein.problem import Transport

__all__ = ["exact_transport"]

PROVED = 1e-10  # what a better plan could save, relative to <Γ, |C|>; mostly it is 1e-14
ROUNDS = 10  # one where costs are of one size; a round gains about 13 digits
CAP = 1000.0  # times the largest slack in use


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
        RuntimeError: If the network simplex reports no optimum, or its plan cannot be proved
            optimal to 1e-10 of <Γ, abs(C)>.

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
    if rows.all() and columns.all():
        full_plan, f = _refined(a64, b64, cost64)
        g = c_transform(f, cost64)
    else:
        plan, f = _refined(a64[rows], b64[columns], cost64[rows][:, columns])
        full_plan = torch.zeros_like(cost64)
        full_plan[rows[:, None] & columns] = plan.flatten()
        g = c_transform(f, cost64[rows])
    # A c-transform in each direction extends the potentials to zero-weight points.
    f = c_transform(g, cost64.mT)
    full_plan = full_plan.to(cost.device)
    total = (full_plan * cost.double()).sum()
    return Transport(
        full_plan.to(cost), total.to(cost.dtype), (f - f[0]).to(cost), (g + f[0]).to(cost)
    )


def _refined(a: Tensor, b: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Plan and row potential of the problem with positive weights."""
    f, slack, cap = torch.zeros_like(a), cost, math.inf  # no slack yet, but the same plans
    for round_ in range(ROUNDS):
        used, step = _network_simplex(a, b, slack, cap)
        plan, finer = basic_plan(used, a, b), _slack(slack, step)
        pairs = tuple(used.T)
        masses, in_use = plan[pairs], slack[pairs]
        capped = (in_use > cap).any()
        if round_ == 0 or masses @ finer[pairs] < masses @ in_use:
            f, slack, in_use = f + step, finer, finer[pairs]
        could_save, pays = (masses @ in_use).item(), (masses @ cost[pairs].abs()).item()
        if could_save <= PROVED * pays:
            return plan, f
        cap = cap * CAP if capped else in_use.max().item() * CAP
    raise RuntimeError(
        f"expected costs that float64 can tell apart, got a plan of cost {pays:.3g} (without "
        f"signs) where a better one, not found, might save up to {could_save:.3g}"
    )


def _slack(cost: Tensor, f: Tensor) -> Tensor:
    """cost_ij − f_i − g_j >= 0, where g is f's c-transform."""
    g = c_transform(f, cost)
    # f_i and g_j may be huge and of opposite signs: their sum is exact, cost_ij − f_i is not.
    return (cost - (f[:, None] + g)).clamp_min_(0)


def _network_simplex(a: Tensor, b: Tensor, cost: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """The pairs of POT's plan, and its row potential, for costs of at most ``cap``."""
    from ot.lp import emd  # here, because it takes a second to import

    unit = min(cap, cost.abs().max().item()) or 1.0
    with warnings.catch_warnings(action="ignore"):  # the log says the same
        plan, log = emd(
            (a / a.sum()).numpy(),
            (b / b.sum()).numpy(),
            (cost / unit).clamp_max_(1).numpy(),  # what it compares with is of size 1
            numItermax=1000 * (len(a) + len(b)) + 10**6,
            log=True,
            center_dual=False,
        )
    if log["warning"] is not None:
        raise RuntimeError(f"the network simplex stopped: {log['warning']}")
    return torch.from_numpy(np.argwhere(plan)), torch.from_numpy(log["u"]) * unit
