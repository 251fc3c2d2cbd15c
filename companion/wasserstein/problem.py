"""The discrete transport problem: what goes in, what comes out.

    minimise <Γ, C>   over Γ ≥ 0 with Γ 1 = a and Γᵀ 1 = b

Source: Peyré & Cuturi 2019, arXiv:1803.00567, §2.3.
Chapter: course/02_wasserstein.ipynb.  Dimension key: n sources, m targets.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Transport", "check_problem"]

SUM_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-7}  # relative; a sum rounds


class Transport(NamedTuple):
    """A transport plan with its cost and the two potentials that certify it.

    Fields:
        plan: Γ; ``plan[i, j]`` is the mass that moves from source i to target j.
        cost: <Γ, C>, with no entropy term.
        f, g: Dual potentials. Adding t to f and taking t from g changes nothing, so every
            solver of this package returns the pair with ``f[0] = 0``.
    """

    plan: Float[Tensor, "*batch n m"]
    cost: Float[Tensor, "*batch"]
    f: Float[Tensor, "*batch n"]
    g: Float[Tensor, "*batch m"]


def check_problem(
    a: Float[Tensor, "*batch n"], b: Float[Tensor, "*batch m"], cost: Float[Tensor, "*batch n m"]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same problem with leading axes broadcast and b scaled to a's exact mass.

    Raises:
        TypeError: If the three are not tensors of one dtype, float32 or float64.
        ValueError: If shapes, devices, signs, sums or finiteness are wrong.
    """
    _check_tensors(a, b, cost)
    n, m = a.shape[-1], b.shape[-1]
    if cost.shape[-2:] != (n, m):
        raise ValueError(
            f"cost: expected shape (..., {n}, {m}) from the weights, got {tuple(cost.shape)}"
        )
    if n == 0 or m == 0:
        raise ValueError(f"expected at least one source and one target, got n={n}, m={m}")
    _check_weights("a", a)
    _check_weights("b", b)
    low, high = cost.aminmax()
    if not (low > -math.inf and high < math.inf):
        raise ValueError(f"cost: expected finite entries, got from {low:.3g} to {high:.3g}")
    try:
        batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1], cost.shape[:-2])
    except RuntimeError:
        shapes = ", ".join(str(tuple(t.shape)) for t in (a, b, cost))
        raise ValueError(f"a, b, cost: expected equal leading axes, got shapes {shapes}") from None
    a, b, cost = a.expand(*batch, n), b.expand(*batch, m), cost.expand(*batch, n, m)
    mass_a, mass_b = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
    gap = ((mass_a - mass_b).abs() / mass_a).max().item()
    if gap > SUM_TOLERANCE[a.dtype]:
        raise ValueError(f"expected equal sums of a and b, got a relative difference of {gap:.2g}")
    return a, b * (mass_a / mass_b), cost


def _check_tensors(a: Tensor, b: Tensor, cost: Tensor) -> None:
    named = {"a": (a, 1), "b": (b, 1), "cost": (cost, 2)}
    for name, (value, axes) in named.items():
        if not isinstance(value, Tensor) or value.dtype not in SUM_TOLERANCE:
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name}: expected a float32 or float64 tensor, got {got}")
        if value.ndim < axes:
            raise ValueError(f"{name}: expected at least {axes} axes, got {value.ndim}")
    for name, (value, _) in named.items():
        if value.dtype != cost.dtype:
            raise TypeError(f"{name}: expected cost's dtype {cost.dtype}, got {value.dtype}")
        if value.device != cost.device:
            raise ValueError(f"{name}: expected cost's device {cost.device}, got {value.device}")


def _check_weights(name: str, weights: Tensor) -> None:
    low, high = weights.aminmax()
    if not (low >= 0 and high < math.inf):
        raise ValueError(f"{name}: expected finite weights >= 0, got from {low:.3g} to {high:.3g}")
    if (weights.sum(-1) == 0).any():
        raise ValueError(f"{name}: expected a positive sum of weights, got 0")
