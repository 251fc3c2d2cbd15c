"""Transport as a linear program, its dual, and the map from one potential to the other.

    primal   min <Γ, C>           over Γ ≥ 0, A vec(Γ) = (a, b)
    dual     max <a, f> + <b, g>  over f_i + g_j ≤ C_ij        (that is, Aᵀ (f, g) ≤ vec(C))

Source: Peyré & Cuturi 2019, arXiv:1803.00567, §2.3, §2.5 and §5.1.
Chapter: course/02_wasserstein.ipynb.  Dimension key: n sources, m targets.
"""

import math

import torch
from jaxtyping import Float
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from companion.checks import check_count, typed
from companion.wasserstein.basic_plan import basic_plan
from companion.wasserstein.problem import check_problem

__all__ = ["c_transform", "equality_matrix", "solve_dual", "solve_primal"]

HIGHS_OPTIONS = {
    "primal_feasibility_tolerance": 1e-10,
    "dual_feasibility_tolerance": 1e-10,
    "presolve": False,  # it takes weights below its own tolerances for a contradiction
}
MASS = 1e5  # then HiGHS's tolerance is 1e-15 of it


@typed
def equality_matrix(
    n: int, m: int, *, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "n+m n*m"]:
    """A of the linear program: ``A @ plan.flatten()`` is the row sums, then the column sums.

    The plan is flattened row by row, as ``Tensor.flatten`` does. Rank n + m - 1: the row sums
    and the column sums have the same total.

    Example:
        >>> equality_matrix(2, 3, dtype=torch.int64)
        tensor([[1, 1, 1, 0, 0, 0],
                [0, 0, 0, 1, 1, 1],
                [1, 0, 0, 1, 0, 0],
                [0, 1, 0, 0, 1, 0],
                [0, 0, 1, 0, 0, 1]])
    """
    check_count("n", n)
    check_count("m", m)
    row_sums = torch.kron(torch.eye(n, dtype=dtype), torch.ones(1, m, dtype=dtype))
    column_sums = torch.kron(torch.ones(1, n, dtype=dtype), torch.eye(m, dtype=dtype))
    return torch.cat([row_sums, column_sums])


def _sparse_equality_matrix(n: int, m: int) -> sparse.csr_array:
    row_sums = sparse.kron(sparse.eye_array(n), [[1.0] * m])
    column_sums = sparse.kron([[1.0] * n], sparse.eye_array(m))
    return sparse.csr_array(sparse.vstack([row_sums, column_sums]))


def solve_primal(
    a: Float[Tensor, "n"], b: Float[Tensor, "m"], cost: Float[Tensor, "n m"]
) -> Float[Tensor, "n m"]:
    """An optimal plan, from the primal linear program alone (scipy's HiGHS, float64 inside).

    n·m unknowns: meant for the chapter's sizes (up to about 100 × 100). HiGHS chooses the pairs;
    the masses on them are exact. ``exact_transport`` is faster, gives the potentials as well, and
    proves its plan optimal.

    Raises:
        TypeError, ValueError: As ``check_problem``.
        RuntimeError: If HiGHS does not report an optimum.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> solve_primal(torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]), cost)
        tensor([[0.5000, 0.2500],
                [0.0000, 0.2500]])
    """
    a64, b64, cost64 = single_problem(a, b, cost)
    weights, slack, *_ = _in_units(a64, b64, cost64)
    result = linprog(
        slack.flatten().numpy(),
        A_eq=_sparse_equality_matrix(len(a64), len(b64)),
        b_eq=weights.numpy(),
        bounds=(0, None),
        method="highs",
        options=HIGHS_OPTIONS,
    )
    if result.status != 0:
        raise RuntimeError(f"HiGHS stopped on the primal: {result.message}")
    pairs = (torch.from_numpy(result.x).reshape(cost.shape) > 0).nonzero()
    return basic_plan(pairs, a64, b64).to(cost)


def solve_dual(
    a: Float[Tensor, "n"], b: Float[Tensor, "m"], cost: Float[Tensor, "n m"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "m"]]:
    """Optimal potentials (f, g), from the dual linear program alone; ``f[0] = 0``.

    Args, Raises: As ``solve_primal``.

    Example:
        >>> a, b = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
        >>> f, g = solve_dual(a, b, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> (a @ f + b @ g).item()
        0.25
    """
    a64, b64, cost64 = single_problem(a, b, cost)
    n, m = cost.shape
    weights, slack, f, g, unit = _in_units(a64, b64, cost64)
    fixed, free = (0, 0), (None, None)
    result = linprog(
        -weights.numpy(),  # linprog minimises
        A_ub=_sparse_equality_matrix(n, m).T,
        b_ub=slack.flatten().numpy(),
        bounds=[fixed] + [free] * (n + m - 1),
        method="highs",
        options=HIGHS_OPTIONS,
    )
    if result.status != 0:
        raise RuntimeError(f"HiGHS stopped on the dual: {result.message}")
    more_f, more_g = (torch.from_numpy(result.x) * unit).split([n, m])
    f, g = f + more_f, g + more_g
    return (f - f[0]).to(cost), (g + f[0]).to(cost)


def _in_units(a: Tensor, b: Tensor, cost: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """The program in numbers that suit HiGHS, whose tolerances are absolute.

    Returns:
        Both weights, for a mass of 1e5; slack / unit, where slack_ij = cost_ij − f_i − g_j >= 0
        has the same optimal plans as the cost; f, g, and the unit: the typical smallest slack.
    """
    f = cost.amin(1)
    g = c_transform(f, cost)
    slack = cost - (f[:, None] + g)
    smallest = slack.where(slack > 0, math.inf).amin(1)
    smallest = smallest[smallest < math.inf]
    unit = smallest.median().item() if len(smallest) else 1.0
    return torch.cat([a, b]) * (MASS / a.sum()), slack / unit, f, g, unit


@typed
def c_transform(
    f: Float[Tensor, "*batch n"], cost: Float[Tensor, "*batch n m"]
) -> Float[Tensor, "*batch m"]:
    """The largest g that is feasible together with f.

        g_j = min_i  cost_ij − f_i

    Source: Peyré & Cuturi 2019, §5.1 (there f^c); Villani 2009, Definition 5.2.
    The other direction, f_i = min_j cost_ij − g_j, is ``c_transform(g, cost.mT)``.

    Args:
        f: A potential on the rows of ``cost``.
        cost: Any real matrix; +inf forbids a pair.

    Raises:
        ValueError: If f's length is not the number of rows, or is 0.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0]])
        >>> c_transform(torch.tensor([0.0, 0.5]), cost)
        tensor([ 0.0000, -0.5000,  0.5000])
    """
    if cost.ndim < 2 or f.ndim < 1 or f.shape[-1] != cost.shape[-2] or f.shape[-1] == 0:
        raise ValueError(
            f"f: expected one value for each row of cost {tuple(cost.shape)}, "
            f"got shape {tuple(f.shape)}"
        )
    return (cost - f[..., :, None]).amin(-2)


def single_problem(a: Tensor, b: Tensor, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One checked problem in float64 on the CPU, where HiGHS runs; no batch axes."""
    for name, value, axes in (("a", a, 1), ("b", b, 1), ("cost", cost, 2)):
        if isinstance(value, Tensor) and value.ndim != axes:
            raise ValueError(f"{name}: expected {axes} axes, got shape {tuple(value.shape)}")
    a, b, cost = (t.detach().cpu() for t in check_problem(a, b, cost))
    a, b, cost = a.double(), b.double(), cost.double()
    return a, b * (a.sum() / b.sum()), cost
