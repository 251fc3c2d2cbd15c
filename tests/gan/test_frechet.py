"""The Fréchet distance: rank one by hand, closed forms, scipy's matrix root, few samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch.testing import assert_close

from companion.gan.frechet import frechet_distance

EPS = torch.finfo(torch.float64).eps


def sample(n: int, d: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return z @ torch.randn(d, d, generator=generator, dtype=torch.float64) + seed


def bound(x: torch.Tensor, y: torch.Tensor) -> float:
    """Means are right to N roundings, D singular values each to D roundings of the largest."""
    n = max(*x.shape, *y.shape)
    return 8 * n**2 * EPS * (x.square().sum() / (len(x) - 1) + y.square().sum() / (len(y) - 1))


def by_matrix_root(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x.cpu().double().numpy(), y.cpu().double().numpy()
    gap, a, b = x.mean(0) - y.mean(0), np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(gap @ gap + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b).real))


def test_two_samples_of_each_by_hand(device):
    x = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0]], device=device)
    y = torch.tensor([[1.0, 5.0, 0.0], [1.0, 1.0, 4.0]], device=device)
    # Covariances uuᵀ and vvᵀ, u = (2, 0, 2)/√2, v = (0, −4, 4)/√2; the root's trace is |u·v| = 4.
    result = frechet_distance(x, y)
    assert result.dtype == torch.float64
    assert abs(result - (0 + 9 + 1 + 4 + 16 - 2 * 4)) < bound(x.double(), y.double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_it_is_scipys_where_covariances_are_regular(dtype, device):
    x, y = sample(23, 5, seed=0).to(device, dtype), sample(29, 5, seed=1).to(device, dtype)
    # A root of a matrix is right to ε times a condition number: 1e-9 leaves 4e6.
    result = frechet_distance(x.mT.contiguous().mT, y)
    assert_close(result.item(), by_matrix_root(x, y), atol=0, rtol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(13, 17), (5, 7), (13, 7), (5, 17)])
def test_singular_covariances_in_a_wider_space(n, m):
    x, y = sample(n, 3, seed=2), sample(m, 3, seed=3)
    wider = torch.linalg.qr(sample(11, 3, seed=4)).Q.mT  # rows at right angles, of length 1
    result = frechet_distance(x @ wider, y @ wider)
    assert_close(result.item(), by_matrix_root(x, y), atol=0, rtol=1e-9)


@given(seed=st.integers(0, 99), n=st.integers(2, 13), d=st.integers(1, 11))
def test_shifts_and_scales(seed, n, d):
    x, y = sample(n, d, seed=seed), sample(7, d, seed=seed + 1)
    assert abs(frechet_distance(x, y) - frechet_distance(y, x)) < bound(x, y)
    assert 0 <= frechet_distance(x, x) < bound(x, x)
    shift = torch.arange(d).double()
    assert abs(frechet_distance(x, x + shift) - shift.square().sum()) < bound(x, x + shift)
    centred = x - x.mean(0)
    spread = centred.square().sum() / (n - 1)
    assert abs(frechet_distance(centred, -3 * centred) - 4 * spread) < bound(x, 3 * x)


def test_constant_samples_and_coordinates_at_right_angles(device):
    x, y = sample(7, 3, seed=7).to(device), torch.full((5, 3), 2.0, device=device).double()
    centred, spread = x - x.mean(0), x.var(0).sum()
    expected = (x.mean(0) - 2).square().sum() + spread
    assert abs(frechet_distance(x, y) - expected) < bound(x, y)
    assert frechet_distance(y, y[:3] + 1) == 3
    left, right = torch.zeros(2, 7, 7, dtype=torch.float64, device=device)
    left[:, :3], right[:, 3:6] = centred, 2 * centred  # the product of the covariances is 0
    assert abs(frechet_distance(left, right) - 5 * spread) < bound(left, right)


def test_a_common_offset_does_not_cancel():
    x, y = (sample(n, 3, seed=n).mul(2**20).round() / 2**20 for n in (23, 29))
    far = frechet_distance(x + 2**20, y + 2**20)  # exact sums
    # Means near 2²⁰ are right to N ε 2²⁰ ≈ 1e-8; x² − mean² would be wrong by ε 2⁴⁰ ≈ 2e-4.
    assert abs(far - frechet_distance(x, y)) < 1e-6


def test_what_is_refused():
    X = torch.zeros(3, 5)
    for x, y, message in (
        (X, X[:, :4], r"shapes \(N, D\) and \(M, D\), got \(3, 5\) and \(3, 4\)"),
        (X[:, :0], X[:, :0], r"shapes \(N, D\) and \(M, D\), got \(3, 0\)"),
        (X, X[:1], "at least two samples of each for a covariance, got"),
        (X[:0], X, "at least two samples of each for a covariance, got"),
        (X, X + torch.nan, "y_MD: expected finite numbers, got NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet_distance(x, y)
