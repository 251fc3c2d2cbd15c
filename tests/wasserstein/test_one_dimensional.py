"""W_p on the line against scipy, POT, the linear program and closed forms; then its slices."""

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch.testing import assert_close

from companion.wasserstein import sliced_wasserstein, wasserstein_1d
from tests.wasserstein.instances import generator, points, weights

POWERS = [1, 1.5, 2, 3]


def line(n: int, *, seed: int) -> torch.Tensor:
    return points(n, 1, seed=seed)[:, 0]


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("sizes", [(7, 7), (7, 5), (3, 11)])
def test_samples_against_the_linear_program(sizes, p):
    x, y = line(sizes[0], seed=0), line(sizes[1], seed=1)
    cost = (x[:, None] - y).abs() ** p
    expected = ot.emd2(ot.unif(sizes[0]), ot.unif(sizes[1]), cost.numpy()) ** (1 / p)
    assert abs(wasserstein_1d(x, y, p=p) - expected) < 1e-12


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("zeros", [0, 2])
def test_weights_against_the_linear_program(p, zeros, device):
    x, y = line(7, seed=0), line(5, seed=1)
    a, b = weights(7, seed=2, zeros=zeros), weights(5, seed=3, zeros=zeros)
    expected = ot.emd2(a.numpy(), b.numpy(), ((x[:, None] - y).abs() ** p).numpy()) ** (1 / p)
    x, y, a, b = (t.to(device) for t in (x, y, a, b))
    assert abs(wasserstein_1d(x, y, p=p, x_weights=a, y_weights=b) - expected) < 1e-12


def test_w1_is_scipys_and_counts_will_do():
    x, y = line(9, seed=0), line(6, seed=1)
    counts = torch.tensor([3.0, 0.0, 1.0, 1.0, 0.0, 7.0, 2.0, 1.0, 1.0])
    expected = wasserstein_distance(x.numpy(), y.numpy(), counts.numpy())
    assert abs(wasserstein_1d(x, y, x_weights=counts) - expected) < 1e-12


def test_the_distance_is_returned_not_its_power():
    x = torch.tensor([0.0, 1.0])
    for p in POWERS:
        assert wasserstein_1d(x, x + 5, p=p) == 5
    y = torch.tensor([3.0, 6.0])  # gaps 3 and 5
    assert_close(wasserstein_1d(x, y, p=2), torch.tensor(math.sqrt(17)))
    power = ot.wasserstein_1d(x.numpy(), y.numpy(), p=2)
    assert_close(wasserstein_1d(x, y, p=2).item() ** 2, float(power), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float16, 2e-3), (torch.float32, 1e-6), (torch.float64, 1e-13)]
)
def test_equal_and_general_path_agree_in_each_dtype(dtype, rtol, device):
    x, y = (line(1000, seed=s).to(device, dtype) for s in (0, 1))
    fast = wasserstein_1d(x, y, p=2)
    general = wasserstein_1d(x, y, p=2, x_weights=torch.ones_like(x))
    assert fast.dtype == general.dtype == dtype
    assert_close(fast, general, atol=0, rtol=rtol)
    exact = ot.wasserstein_1d(x.cpu().double().numpy(), y.cpu().double().numpy(), p=2) ** 0.5
    assert_close(fast.cpu().double(), torch.tensor(exact), atol=0, rtol=rtol)


def test_batches_broadcast_and_strides_do_not_matter(device):
    x, y = points(3, 7, seed=0).to(device), points(3, 5, seed=1).to(device)
    a = torch.rand(7, generator=generator(2), dtype=torch.float64).to(device)
    rows = torch.stack([wasserstein_1d(r, s, p=2, x_weights=a) for r, s in zip(x, y, strict=True)])
    assert_close(wasserstein_1d(x, y, p=2, x_weights=a), rows)
    assert_close(wasserstein_1d(x.mT.contiguous().mT, y, p=2, x_weights=a), rows)
    grid = wasserstein_1d(x[:, None], y[None, :], p=2)
    assert grid.shape == (3, 3)
    assert_close(grid[2, 1], wasserstein_1d(x[2], y[1], p=2))


@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 30),
    p=st.floats(1, 6),
    shift=st.floats(-100, 100),
)
def test_translation(seed, n, p, shift):
    x = line(n, seed=seed)
    assert_close(
        wasserstein_1d(x, x.flip(0) + shift, p=p).item(), abs(shift), atol=1e-12, rtol=1e-10
    )
    a = weights(n, seed=seed)
    general = wasserstein_1d(x, x + shift, p=p, x_weights=a, y_weights=a)
    assert_close(general.item(), abs(shift), atol=1e-12, rtol=1e-10)


@given(
    mean=st.floats(-5, 5), scale=st.floats(0.1, 5), seed=st.integers(0, 2**31), n=st.integers(2, 40)
)
def test_gaussians_by_bures(mean, scale, seed, n):
    z = line(n, seed=seed)
    z = (z - z.mean()) / z.std(correction=0)
    expected = math.hypot(mean - 1, scale - 2)
    assert_close(wasserstein_1d(1 + 2 * z, mean + scale * z.flip(0), p=2).item(), expected)


@given(seed=st.integers(0, 2**31), p=st.floats(1, 4))
def test_it_is_a_distance(seed, p):
    x, y, z = line(4, seed=seed), line(6, seed=seed + 1), line(5, seed=seed + 2)
    xy, yx = wasserstein_1d(x, y, p=p), wasserstein_1d(y, x, p=p)
    assert abs(xy - yx) < 1e-12
    assert xy <= wasserstein_1d(x, z, p=p) + wasserstein_1d(z, y, p=p) + 1e-12
    # Jensen: W_p grows with p.
    assert xy <= wasserstein_1d(x, y, p=p + 1) + 1e-12


def test_large_powers_and_small_units_neither_overflow_nor_vanish():
    x = torch.tensor([0.0, 1.0])
    assert_close(wasserstein_1d(x, x + 1e9, p=8), torch.tensor(1e9))
    assert_close(
        wasserstein_1d(1e-25 * x, 1e-25 * (x + 1), p=2), torch.tensor(1e-25), atol=0, rtol=1e-6
    )
    assert wasserstein_1d(x, torch.tensor([0.0, torch.nan])).isnan()


@pytest.mark.parametrize("p", POWERS)
def test_gradients(p, device):
    x, y = line(7, seed=0).to(device), line(5, seed=1).to(device)
    a, b = weights(7, seed=2).to(device), weights(5, seed=3).to(device)

    def distance(x, y, a, b):
        return wasserstein_1d(x, y, p=p, x_weights=a, y_weights=b)

    inputs = [t.clone().requires_grad_() for t in (x, y, a, b)]
    assert torch.autograd.gradcheck(distance, inputs)
    equal = [t.clone().requires_grad_() for t in (x[:5], y)]
    assert torch.autograd.gradcheck(lambda x, y: wasserstein_1d(x, y, p=p), equal)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("x_weights", [None, torch.ones(3)])
def test_gradient_at_equal_samples_is_zero_not_nan(p, x_weights):
    x = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
    distance = wasserstein_1d(x, x.detach().clone(), p=p, x_weights=x_weights)
    distance.backward()
    assert distance == 0
    assert x.grad.tolist() == [0, 0, 0]


def test_what_is_refused():
    x = torch.zeros(3)
    with pytest.raises(ValueError, match=r"x: expected at least one sample, got shape \(0,\)"):
        wasserstein_1d(torch.empty(0), x)
    with pytest.raises(ValueError, match=r"p: expected 1 <= p < inf, got 0\.5"):
        wasserstein_1d(x, x, p=0.5)
    with pytest.raises(
        TypeError,
        match=r"y: expected a tensor of floating-point numbers, got Tensor of torch.int64",
    ):
        wasserstein_1d(x, torch.arange(3))
    with pytest.raises(ValueError, match=r"x_weights: expected 3 weights, got shape \(2,\)"):
        wasserstein_1d(x, x, x_weights=torch.ones(2))
    with pytest.raises(
        ValueError, match="y_weights: expected finite weights >= 0, got from -1 to 1"
    ):
        wasserstein_1d(x, x, y_weights=torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="x_weights: expected a positive sum"):
        wasserstein_1d(x, x, x_weights=torch.zeros(3))
    with pytest.raises(ValueError, match="expected shapes"):
        sliced_wasserstein(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="num_projections: expected at least 1, got 0"):
        sliced_wasserstein(torch.zeros(4, 2), torch.zeros(4, 2), num_projections=0)
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        sliced_wasserstein(torch.zeros(0, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("sizes", [(50, 50), (50, 31)])
def test_slices_are_pots(sizes, p, device):
    x, y = points(sizes[0], 3, seed=0), points(sizes[1], 3, seed=1)
    directions = torch.randn(16, 3, generator=generator(7), dtype=torch.float64)
    directions = (directions / directions.norm(dim=1, keepdim=True)).mT.contiguous()
    expected = ot.sliced_wasserstein_distance(
        x.numpy(), y.numpy(), projections=directions.numpy(), p=p
    )
    sliced = sliced_wasserstein(
        x.to(device), y.to(device), p=p, num_projections=16, generator=generator(7)
    )
    assert_close(sliced.item(), float(expected), atol=1e-12, rtol=1e-12)


def test_slices_of_a_translation_and_the_bound():
    x, shift = points(200, 3, seed=0), torch.tensor([2.0, 0.0, 0.0]).double()
    # Mean of ⟨shift, θ⟩² over the sphere in three dimensions is |shift|² / 3.
    sliced = sliced_wasserstein(x, x + shift, num_projections=20_000, generator=generator(0))
    assert abs(sliced - 2 / math.sqrt(3)) < 0.02
    y = points(200, 3, seed=1)
    uniform = ot.unif(200)
    full = math.sqrt(
        ot.emd2(uniform, uniform, np.square(ot.dist(x.numpy(), y.numpy(), "euclidean")))
    )
    assert sliced_wasserstein(x, y, generator=generator(0)) < full


def test_the_generator_alone_decides():
    x, y = points(9, 3, seed=0), points(9, 3, seed=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sliced_wasserstein(x, y, num_projections=4, generator=generator(5))
    assert sliced_wasserstein(x, y, num_projections=4, generator=generator(5)) == first
    assert sliced_wasserstein(x, y, num_projections=4, generator=generator(6)) != first
    assert torch.equal(torch.get_rng_state(), before)


def test_slices_have_gradients_also_at_zero():
    x, y = points(6, 2, seed=0).requires_grad_(), points(5, 2, seed=1).requires_grad_()

    def sliced(x, y):
        return sliced_wasserstein(x, y, num_projections=8, generator=generator(0))

    assert torch.autograd.gradcheck(sliced, (x, y))
    (gradient,) = torch.autograd.grad(sliced(x, x.detach().clone()), x)
    assert (gradient == 0).all()
