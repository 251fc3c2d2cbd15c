"""Random transport problems, made on the CPU so that every device sees the same numbers."""

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(n: int, *, seed: int, zeros: int = 0) -> Tensor:
    """n float64 weights of sum 1, the first ``zeros`` of which are zero."""
    values = torch.rand(n, generator=generator(seed), dtype=torch.float64) + 0.1
    values[:zeros] = 0
    return values / values.sum()


def points(n: int, d: int, *, seed: int) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def problem(n: int, m: int, *, seed: int = 0, zeros: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and squared distances between clouds of points in the plane."""
    a, b = weights(n, seed=seed, zeros=zeros), weights(m, seed=seed + 1, zeros=zeros)
    x, y = points(n, 2, seed=seed + 2), points(m, 2, seed=seed + 3)
    return a, b, (x[:, None] - y).square().sum(-1)
