"""Vectors, codes, and what is right about the index of the nearest one."""

import math

import torch
from torch import Tensor

__all__ = ["EXACT_OFFSETS", "assert_nearest", "cloud", "exact_grid", "strided"]

# Half-integers up to 20 beyond these are exact in each dtype.
EXACT_OFFSETS = {
    torch.bfloat16: 64,
    torch.float16: 512,
    torch.float32: 2**20,
    torch.float64: 2**40,
}


def cloud(n: int, k: int, d: int, *, far: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n vectors and k codes around one point, in float64."""
    random = torch.Generator().manual_seed(seed)
    z, codebook = (torch.randn(m, d, dtype=torch.float64, generator=random) + far for m in (n, k))
    return z, codebook


def exact_grid(n: int, k: int, d: int, *, offset: int, seed: int) -> tuple[Tensor, Tensor]:
    """Half-integers and integers, many at the same distance, in float64."""
    random = torch.Generator().manual_seed(seed)
    z = torch.randint(-6, 7, (n, d), generator=random).double() / 2
    codebook = torch.randint(-3, 4, (k, d), generator=random).double()
    return z + offset, codebook + offset


def assert_nearest(found: Tensor, z: Tensor, codebook: Tensor, *, wide: torch.dtype) -> None:
    """No code is closer than the chosen one by more than rounding in ``wide`` can hide.

    Scores ‖e − c‖² − 2 (z − c)·(e − c) have D products and sums, two rounded differences and one
    sum of two terms: |error| <= γ (‖e − c‖² + 2 ‖z − c‖ ‖e − c‖), γ = n u / (1 − n u), n = D + 4;
    and two scores were compared. c is within the spread s = max |e − mean| of the mean in every
    coordinate, so √D s bounds what it adds to the norms. Distances are by the definition, in
    float64, whose relative error is γ too.
    """
    z, codebook = z.detach().double(), codebook.detach().double()
    distances = (z[..., None, :] - codebook).square().sum(-1)
    mean, width = codebook.mean(0), codebook.shape[1]
    room = math.sqrt(width) * (codebook - mean).abs().max()
    e_norm = (codebook - mean).norm(dim=1).max() + room
    z_norm = (z - mean).norm(dim=-1) + room
    gamma, gamma_64 = (
        (width + 4) * u / (1 - (width + 4) * u)
        for u in (torch.finfo(wide).eps / 2, torch.finfo(torch.float64).eps / 2)
    )
    bound = 2 * gamma * (e_norm**2 + 2 * z_norm * e_norm) + 2 * gamma_64 * (z_norm + e_norm) ** 2
    chosen = distances.gather(-1, found[..., None].to(distances.device))[..., 0]
    assert found.dtype == torch.int64
    assert found.shape == z.shape[:-1]
    assert (chosen <= distances.amin(-1) + bound).all()


def strided(x: Tensor) -> Tensor:
    """The same numbers in another order of memory, with NaN between them and after them."""
    room = x.new_full((2 * x.shape[1] + 1, 3 * x.shape[0] + 40), math.nan)
    view = room.T[: 3 * x.shape[0] : 3, : 2 * x.shape[1] : 2]
    view.copy_(x)
    return view
