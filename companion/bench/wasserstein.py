"""Optimal transport beside POT (Python Optimal Transport).

Double precision, so that equality can be asked for sharply. POT runs on its torch backend,
where its functions are differentiable and run on a GPU, as ours do; its stabilised Sinkhorn on
NumPy as well, where it is faster on a CPU but gives no gradient.
"""

import math
import warnings
from collections.abc import Callable

import ot
import torch

from companion.measure.workload import Workload
from companion.wasserstein import exact_transport, sinkhorn, sliced_wasserstein, wasserstein_1d

__all__ = ["workloads"]

EPSILON, ITERATIONS = 0.02, 50


def workloads(device: str) -> list[Workload]:
    """The line, slices, entropic and exact transport; bars as in the chapter's speed table."""
    log, stabilized = ot.bregman.sinkhorn_log, ot.bregman.sinkhorn_stabilized
    return [
        _line(device),
        _slices(device),
        _entropic(log, "torch", device, bar=4),
        _entropic(stabilized, "torch", device, bar=0.8),
        *([_entropic(stabilized, "numpy", device, bar=0.8)] if device == "cpu" else []),
        _exact(device),
    ]


def _line(device: str, n: int = 100_000) -> Workload:
    x, y = _normal(n, 1, 0, device)[:, 0], 1 + 1.5 * _normal(n, 1, 1, device)[:, 0]
    return Workload(
        name=f"wasserstein_1d n={n} uniform",
        peer="POT wasserstein_1d, torch",
        ours=lambda: wasserstein_1d(x, y),
        theirs=_quiet(lambda: ot.wasserstein_1d(x, y)),
        equal=lambda ours, theirs: math.isclose(ours, theirs, rel_tol=1e-9),
        bar=3,
    )


def _slices(device: str, n: int = 5000, d: int = 3, projections: int = 64) -> Workload:
    x, y = _normal(n, d, 0, device), 1 + 1.5 * _normal(n, d, 1, device)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(2)

    directions = torch.randn(projections, d, generator=generator(), dtype=x.dtype).to(device)
    directions = (directions / directions.norm(dim=1, keepdim=True)).mT.contiguous()
    return Workload(
        name=f"sliced_wasserstein {projections} projections, n={n}, d={d}",
        peer="POT sliced_wasserstein_distance, torch",
        ours=lambda: sliced_wasserstein(x, y, num_projections=projections, generator=generator()),
        theirs=_quiet(lambda: ot.sliced_wasserstein_distance(x, y, projections=directions)),
        equal=lambda ours, theirs: math.isclose(ours, theirs, rel_tol=1e-9),
        bar=3,
    )


def _entropic(
    solver: Callable[..., object], backend: str, device: str, *, bar: float, n: int = 1000
) -> Workload:
    weights, cost = _clouds(n, device)
    theirs = [t.numpy() if backend == "numpy" else t for t in (weights, weights, cost)]
    settings = {"numItermax": ITERATIONS, "stopThr": 0, "warn": False}  # 0: all iterations
    return Workload(
        name=f"sinkhorn n={n}, epsilon={EPSILON}, {ITERATIONS} iterations",
        peer=f"POT {solver.__name__}, {backend}",
        ours=_quiet(
            lambda: (
                sinkhorn(weights, weights, cost, epsilon=EPSILON, tol=0, max_iter=ITERATIONS).plan
            )
        ),
        theirs=lambda: solver(*theirs, EPSILON, **settings),
        equal=lambda ours, plan: _close(ours, torch.as_tensor(plan), 1e-9 / n),
        bar=bar,
    )


def _exact(device: str, n: int = 1000) -> Workload:
    weights, cost = _clouds(n, device)
    numpy_weights, numpy_cost = weights.cpu().numpy(), cost.cpu().numpy()
    return Workload(
        name=f"exact_transport n={n} uniform",
        peer="POT emd (network simplex in C++)",
        ours=lambda: exact_transport(weights, weights, cost).plan.cpu(),
        theirs=lambda: ot.emd(numpy_weights, numpy_weights, numpy_cost),
        equal=lambda ours, plan: _close(ours, torch.as_tensor(plan), 1e-9 / n),
    )


def _normal(n: int, d: int, seed: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(device)


def _clouds(n: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform weights, and squared distances between uniform points of the unit square."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, n, 2, generator=generator, dtype=torch.float64)
    return torch.full((n,), 1 / n, dtype=x.dtype).to(device), torch.cdist(x, y).square().to(device)


def _close(ours: torch.Tensor, theirs: torch.Tensor, atol: float) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-6, atol=atol)


def _quiet(call: Callable[[], object]) -> Callable[[], object]:
    """Without the warnings that are meant here: ours that it stopped, POT's about ``x.T``."""

    def run() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()

    return run
