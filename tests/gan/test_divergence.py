"""The optimal discriminator and the Jensen–Shannon divergence: by hand, on a grid, by scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch.testing import assert_close

from companion.gan.divergence import jensen_shannon, optimal_discriminator

# At most 11 terms, none above 1, each within a few roundings.
BOUND = 64 * torch.finfo(torch.float64).eps
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def weights(*shape: int, seed: int, zeros: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values, kept = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    kept[..., 0] = 1
    return (values + 0.01) * (kept >= zeros)


@pytest.mark.parametrize("dtype", DTYPES)
def test_discriminator_by_hand_and_at_the_ends_of_each_dtype(dtype, device):
    most, least = torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal
    p = torch.tensor([1.0, 0.0, 0.0, 3.0, most, most, least], dtype=dtype, device=device)
    q = torch.tensor([3.0, 0.0, 2.0, 0.0, most, least, least], dtype=dtype, device=device)
    expected = torch.tensor([0.25, 0.5, 0.0, 1.0, 0.5, 1.0, 0.5], dtype=dtype, device=device)
    assert torch.equal(optimal_discriminator(p, q), expected)


@given(p=st.floats(0.01, 10), q=st.floats(0.01, 10))
def test_no_discriminator_on_a_grid_is_better(p, q):
    best = optimal_discriminator(*torch.tensor([[p], [q]], dtype=torch.float64)).item()
    d = np.array([best, *np.linspace(0.001, 0.999, 999)])
    gain = p * np.log(d) + q * np.log1p(-d)
    assert gain[0] >= gain.max() - 1e-12  # at most 20 · 7 · ε


def test_discriminator_broadcasts_and_has_gradients(device):
    p, q = weights(3, 1, 5, seed=0).to(device), weights(7, 5, seed=1).to(device)
    grid = optimal_discriminator(p, q.mT.contiguous().mT)
    assert grid.shape == (3, 7, 5)
    assert_close(grid[2, 3], p[2, 0] / (p[2, 0] + q[3]))
    inputs = [values.clone().requires_grad_() for values in (p, q)]
    assert torch.autograd.gradcheck(optimal_discriminator, inputs)
    nothing = torch.zeros(3, requires_grad=True)
    optimal_discriminator(nothing, torch.zeros(3)).sum().backward()
    assert nothing.grad.tolist() == [0, 0, 0]


def test_divergence_of_equal_and_of_disjoint_weights():
    p, q = torch.zeros(2, 2, 11, dtype=torch.float64)
    p[:, :3], q[0, 3:6], q[1, 8:] = weights(3, seed=6), weights(3, seed=7), weights(3, seed=7)
    assert ((jensen_shannon(p, q) - math.log(2)).abs() < BOUND).all()  # whatever the gap
    assert (jensen_shannon(p, 8 * p) == 0).all()
    tiny = torch.tensor([5e-324, 1.0, 0.0], dtype=torch.float64)  # 5e-324 / 2 would be 0
    assert jensen_shannon(tiny, tiny.round()) == 0


@given(st.floats(0, 1))
def test_two_coins_differ_by_log_2_less_the_entropy(a):
    p = torch.tensor([a, 1 - a], dtype=torch.float64)
    entropy = -sum(x * math.log(x) for x in (a, 1 - a) if x > 0)
    assert abs(jensen_shannon(p, p.flip(0)) - (math.log(2) - entropy)) < BOUND


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_divergence_is_the_square_of_scipys(zeros, dtype, device):
    p, q = (
        weights(*shape, 7, seed=len(shape), zeros=zeros).to(device, dtype)
        for shape in ((3, 1), (5,))
    )
    result = jensen_shannon(p.mT.contiguous().mT, q)
    assert result.dtype == dtype
    rows, columns = (x.cpu().double().numpy() for x in (p[:, 0], q))
    pairs = [[float(jensenshannon(x, y)) ** 2 for y in columns] for x in rows]
    pairs = torch.tensor(pairs, dtype=torch.float64)
    assert_close(result.cpu().double(), pairs, atol=BOUND, rtol=torch.finfo(dtype).eps)
    most = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=dtype, device=device)
    result = jensen_shannon(*most * torch.finfo(dtype).max)  # m is (¾, ¼)
    expected = (math.log(2 / 3) / 2 + math.log(2) / 2 + math.log(4 / 3)) / 2
    assert abs(result.item() - expected) < torch.finfo(dtype).eps


def test_the_value_of_the_game_at_its_best_discriminator():
    p, q = (x / x.sum() for x in (weights(7, seed=8), weights(7, seed=9)))
    best = optimal_discriminator(p, q)
    value = (p * best.log()).sum() + (q * (1 - best).log()).sum()
    assert abs(value - (-math.log(4) + 2 * jensen_shannon(p, q))) < 4 * BOUND


def test_gradients_and_zeros_held(device):
    inputs = [weights(3, 5, seed=seed).to(device).requires_grad_() for seed in (10, 11)]
    assert torch.autograd.gradcheck(jensen_shannon, inputs)
    p = torch.tensor([0.0, 3.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    jensen_shannon(p, torch.tensor([0.5, 0.25, 0.25, 0.0])).backward()
    # ∂/∂p of ½ (p log(2p/(p+q)) + q log(2q/(p+q))) is ½ log(2p/(p+q)); then the normalisation.
    share = torch.tensor([3 / 4, 1 / 4]).double()
    slope = torch.log(2 * share / (share + 0.25)) / 2
    expected = (slope - (share * slope).sum()) / 4
    assert_close(p.grad, torch.tensor([0, *expected, 0]).double(), atol=BOUND, rtol=0)


def test_what_is_refused():
    P = torch.ones(3)
    for function, p, q, message in (
        (optimal_discriminator, -P, P, r"p: expected finite numbers >= 0, got from -1 to -1"),
        (jensen_shannon, P, P - 2, r"q: expected finite numbers >= 0, got from -1 to -1"),
        (jensen_shannon, P * torch.nan, P, r"p: expected finite numbers >= 0"),
        (optimal_discriminator, P, P[:2], r"that broadcast, got \(3,\) and \(2,\)"),
        (jensen_shannon, P.expand(2, 3), P.expand(5, 3), r"that broadcast, got \(2,\) and \(5,\)"),
        (jensen_shannon, P, P[:1], r"same places, got shapes \(3,\) and \(1,\)"),
        (jensen_shannon, P[:0], P[:0], r"same places, got shapes \(0,\) and \(0,\)"),
        (jensen_shannon, P, torch.eye(4)[1:, :3], r"q: expected a positive sum of weights in each"),
    ):
        with pytest.raises(ValueError, match=message):
            function(p, q)
