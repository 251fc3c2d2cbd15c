"""merge_partials: a commutative monoid, safe where nothing is seen."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.flash import merge_partials


def exact(outs, lses):
    """Σ e^{lse} out / Σ e^{lse}, in float64, for numbers that do not overflow."""
    weights = lses.double().exp()
    return (weights[..., None] * outs.double()).sum(0) / weights.sum(0)[..., None], weights.sum(
        0
    ).log()


def random_partials(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outs = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return outs, 3 * torch.randn(shape[:-1], generator=generator, dtype=torch.float64).to(dtype)


def test_by_hand():
    """Weights 1 and 3 of 4."""
    outs = torch.tensor([[[8.0, 0.0]], [[4.0, 4.0]]])
    out, lse = merge_partials(outs, torch.tensor([[0.0], [math.log(3)]]))
    torch.testing.assert_close(out, torch.tensor([[5.0, 3.0]]))
    torch.testing.assert_close(lse, torch.tensor([math.log(4)]))


@pytest.mark.parametrize("shape", [(1, 3), (5, 7), (3, 2, 5, 7), (4, 2, 3, 5, 7), (3, 0, 5)])
def test_is_the_weighted_mean(shape):
    outs, lses = random_partials(*shape)
    for args in ((outs, lses), (list(outs), tuple(lses))):
        torch.testing.assert_close(merge_partials(*args), exact(outs, lses))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
    ids=str,
)
def test_dtypes(dtype, tolerance):
    outs, lses = random_partials(5, 3, 7, dtype=dtype)
    out, lse = merge_partials(outs, lses.float())
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    expected = exact(outs, lses)
    torch.testing.assert_close(out.double(), expected[0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.double(), expected[1], atol=1e-5, rtol=1e-5)
    assert merge_partials(outs, lses.double())[1].dtype == torch.float64


@pytest.mark.parametrize("shift", [-5e4, -800.0, 800.0, 5e4])
def test_huge_log_sum_exps(shift):
    outs, lses = random_partials(5, 3, 7)
    out, lse = merge_partials(outs, lses + shift)
    expected = exact(outs, lses)
    torch.testing.assert_close(out, expected[0])
    torch.testing.assert_close(lse - shift, expected[1], atol=1e-9, rtol=1e-9)


def test_parts_that_saw_nothing_are_not_read():
    outs, lses = random_partials(4, 3, 7)
    lses[1], outs[1] = -math.inf, math.nan
    lses[:, 2], outs[:, 2] = -math.inf, math.nan  # row 2 is seen by no part
    out, lse = merge_partials(outs, lses)
    torch.testing.assert_close((out[:2], lse[:2]), exact(outs[[0, 2, 3], :2], lses[[0, 2, 3], :2]))
    assert not out[2].any()
    assert lse[2] == -math.inf


def test_gradients():
    outs, lses = (x.requires_grad_() for x in random_partials(3, 2, 5))
    assert torch.autograd.gradcheck(merge_partials, (outs, lses))
    assert torch.autograd.gradgradcheck(merge_partials, (outs, lses))


def test_gradients_where_nothing_is_seen():
    outs, lses = random_partials(3, 4, 5)
    lses[0] = lses[:, 3] = -math.inf
    leaves = [outs.requires_grad_(), lses.requires_grad_()]
    out, lse = merge_partials(*leaves)
    d_outs, d_lses = torch.autograd.grad(out.sum() + lse[:3].sum() + lse[3], leaves)
    assert d_outs.isfinite().all()
    assert d_lses.isfinite().all()
    assert not d_outs[0].any()
    assert not d_lses[:, 3].any()
    torch.testing.assert_close(d_outs[1:, :3, 0], lses[1:, :3].softmax(0))


# Log-sum-exps of parts: ordinary, far apart, or of a part that saw nothing.
LSES = st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(-math.inf)), min_size=3, max_size=9).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)


def fold(outs, lses, order):
    """Merged one after another, in this order."""
    out, lse = outs[order[0]], lses[order[0]]
    for i in order[1:]:
        out, lse = merge_partials([out, outs[i]], [lse, lses[i]])
    return out, lse


@given(LSES, st.randoms(use_true_random=False), st.data())
def test_any_order_and_any_grouping(lses, random, data):
    outs = random_partials(len(lses), 2)[0]
    at_once = merge_partials(outs, lses)
    order = list(range(len(lses)))
    random.shuffle(order)
    torch.testing.assert_close(fold(outs, lses, order), at_once)
    cut = data.draw(st.integers(1, len(lses) - 1))
    halves = [merge_partials(outs[part], lses[part]) for part in (order[:cut], order[cut:])]
    torch.testing.assert_close(merge_partials(*zip(*halves, strict=True)), at_once)


@given(LSES)
def test_a_part_that_saw_nothing_is_neutral(lses):
    outs = random_partials(len(lses), 2)[0]
    nothing = torch.full((1, 2), math.nan, dtype=torch.float64), torch.tensor([-math.inf])
    got = merge_partials(torch.cat([nothing[0], outs]), torch.cat([nothing[1].double(), lses]))
    torch.testing.assert_close(got, merge_partials(outs, lses))
