"""The masses of a basic plan, exact, from the pairs that it uses.

A vertex of the transport polytope uses at most n + m − 1 pairs, and they form a forest: each
tree has a leaf, a point with one partner. All of a leaf's mass goes to that partner; what is
left is a smaller forest. So the pairs alone determine the plan, by subtractions. In floating
point those cancel: 0.5 − (0.5 − 1e-13) has three digits. In integers nothing is lost.

Source: Peyré & Cuturi 2019, arXiv:1803.00567, §3.4 (extremal plans have no cycle).
Chapter: course/02_wasserstein.ipynb.  Dimension key: n sources, m targets.
"""

import heapq

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["basic_plan"]

SMALLEST = 2**1074  # every float64 is a whole multiple of 1 / SMALLEST
EPS = torch.finfo(torch.float64).eps


def basic_plan(
    pairs: Int[Tensor, "pairs 2"], a: Float[Tensor, "n"], b: Float[Tensor, "m"]
) -> Float[Tensor, "n m"]:
    """The plan on these pairs, each mass correctly rounded.

    The sums of a and b may differ by a rounding error, in every tree of the forest; the tree's
    heaviest point takes the difference.

    Args:
        pairs: (i, j), without a cycle.
        a, b: Weights, float64, on the CPU.

    Raises:
        RuntimeError: If the pairs have a cycle, or no plan on them has these weights.

    Example:
        >>> a, b = torch.tensor([0.75, 0.25]).double(), torch.tensor([0.5, 0.5]).double()
        >>> basic_plan(torch.tensor([[0, 0], [0, 1], [1, 1]]), a, b).tolist()
        [[0.5, 0.25], [0.0, 0.25]]
    """
    n, weights = len(a), [*a.tolist(), *b.tolist()]  # points: the sources, then the targets
    left = [_units(weight) for weight in weights]
    partners: list[set[int]] = [set() for _ in weights]
    for i, j in pairs.tolist():
        partners[i].add(n + j)
        partners[n + j].add(i)
    leaves = [(weights[point], point) for point, all_ in enumerate(partners) if len(all_) == 1]
    heapq.heapify(leaves)
    rows, columns, masses = [], [], []
    while leaves:
        _, leaf = heapq.heappop(leaves)  # the lightest first, so that the heaviest is never one
        if not partners[leaf]:
            continue
        partner = partners[leaf].pop()
        partners[partner].remove(leaf)
        rows.append(min(leaf, partner))
        columns.append(max(leaf, partner) - n)
        masses.append(left[leaf] / SMALLEST)
        left[partner] -= left[leaf]
        left[leaf] = 0
        if len(partners[partner]) == 1:
            heapq.heappush(leaves, (weights[partner], partner))
    plan = torch.zeros(n, len(b), dtype=torch.float64)
    plan[rows, columns] = torch.tensor(masses, dtype=torch.float64).clamp_min(0)
    _check(plan, masses, len(pairs), a, b)
    return plan


def _units(weight: float) -> int:
    numerator, denominator = weight.as_integer_ratio()
    return numerator * (SMALLEST // denominator)


def _check(plan: Tensor, masses: list[float], pairs: int, a: Tensor, b: Tensor) -> None:
    if len(masses) < pairs:
        raise RuntimeError(f"expected pairs without a cycle, got {pairs - len(masses)} in cycles")
    rounding = 4 * (len(a) + len(b)) * EPS
    for weights, sums in ((a, plan.sum(1)), (b, plan.sum(0))):
        # A point may miss what is at the rounding of all mass, but of its own no more.
        missing = (sums - weights).abs() - rounding * weights - 8 * EPS * weights.sum()
        if missing.max() > 0:
            raise RuntimeError(
                f"expected a plan with the weights given, got one that misses {missing.max():.2g}"
            )
