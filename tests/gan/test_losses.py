"""The four losses by hand, against binary cross-entropy, and in their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.testing import assert_close

from companion.gan.losses import hinge_loss, least_squares_loss, minimax_loss, non_saturating_loss

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LARGE = 9984.0  # about 1e4, and a number of every dtype
LOGS = ([math.log(3)], [math.log(4), 0.0])  # σ is ¾; ⅘ and ½
OTHERS = ([0.0, 2.0], [-3.0, 0.0, 1.0, 0.5])
BY_HAND = {
    minimax_loss: (*LOGS, -math.log(3 / 4) - math.log(1 / 10) / 2, math.log(1 / 10) / 2),
    non_saturating_loss: (*LOGS, -math.log(3 / 4) - math.log(0.1) / 2, -math.log(0.4) / 2),
    least_squares_loss: (*OTHERS, 1.78125, 2.15625),
    hinge_loss: (*OTHERS, 1.625, 0.375),
}
LOSSES = list(BY_HAND)


def logits(*shape: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_by_hand_in_each_dtype(loss, dtype, device):
    real, fake, discriminator, generator = BY_HAND[loss]
    real, fake = (torch.tensor(values, dtype=dtype, device=device) for values in (real, fake))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # Logarithms below 2 are rounded by at most eps, no slope is above 1; then a few operations.
    bound = 2 * torch.finfo(dtype).eps + 16 * torch.finfo(wide).eps
    for result, expected in zip(loss(real, fake), (discriminator, generator), strict=True):
        assert result.dtype == wide
        assert abs(result.item() - expected) < bound


def test_means_over_all_entries_of_any_shape():
    sides = real, fake = (
        logits(3, 5, seed=0).requires_grad_(),
        logits(7, 2, seed=1).T.requires_grad_(),
    )
    ones, zeros = torch.ones_like, torch.zeros_like
    discriminator = cross_entropy(real, ones(real)) + cross_entropy(fake, zeros(fake))
    as_fake, as_real = (cross_entropy(fake, label(fake)) for label in (zeros, ones))
    assert_close(tuple(minimax_loss(real, fake)), (discriminator, -as_fake))
    assert_close(tuple(non_saturating_loss(real, fake)), (discriminator, as_real))
    for loss in LOSSES:
        assert_close(loss(real, fake), loss(real.flatten(), fake.flatten()))
        same = loss(torch.full((5, 3), 0.3), torch.full((7,), -0.2))
        assert_close(same, loss(torch.tensor(0.3), torch.tensor(-0.2)))
        assert torch.autograd.gradcheck(lambda *args, loss=loss: loss(*args).discriminator, sides)
        assert torch.autograd.grad(loss(*sides).generator, real, allow_unused=True) == (None,)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=9))
def test_gradients_of_the_generator_are_those_derived(values):
    fake = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    real, share = torch.zeros(3).double(), 1 / len(values)
    for loss, expected in (
        (minimax_loss, -fake.sigmoid() * share),  # starves where D(fake) is near 0 …
        (non_saturating_loss, -(-fake).sigmoid() * share),  # … and this one where it is near 1
        (least_squares_loss, (fake - 1) * share),
        (hinge_loss, torch.full_like(fake, -share)),
    ):
        (gradient,) = torch.autograd.grad(loss(real, fake).generator, fake)
        assert_close(gradient, expected.detach(), atol=1e-300, rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_large_logits_neither_overflow_nor_lose_their_gradient(loss, dtype, device):
    real, fake = (torch.tensor([x], dtype=dtype, device=device) for x in (-LARGE, LARGE))
    lost = loss(real.requires_grad_(), fake.requires_grad_()).discriminator
    squares = ((LARGE + 1) ** 2 + LARGE**2) / 2
    expected = {least_squares_loss: squares, hinge_loss: 2 * LARGE + 2}.get(loss, 2 * LARGE)
    assert_close(lost.item(), expected, atol=0, rtol=1e-6)
    lost.backward()
    assert real.grad.dtype == fake.grad.dtype == dtype
    slope = LARGE if loss is least_squares_loss else 1.0
    assert abs(real.grad.item() + slope) <= 2**-7 * slope  # LARGE + 1 in 8 bits
    assert fake.grad.item() == slope


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_refused(loss):
    with pytest.raises(ValueError, match=r"real_logits: expected at least one, got shape \(0,\)"):
        loss(torch.zeros(0), torch.zeros(3))
    with pytest.raises(ValueError, match=r"fake_logits: expected at least one, got shape \(5, 0"):
        loss(torch.zeros(3), torch.zeros(5, 0))
