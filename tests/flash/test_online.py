"""Three passes and two passes, against hand computation and float64; the monoid's laws."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.flash.online import merge_normalisers, normaliser, online_softmax, safe_softmax

INF = math.inf


def both(x, block=2):
    """The two functions, where a test holds for either."""
    return [safe_softmax(x), online_softmax(x, block=block)[0]]


# By hand


def test_each_step_by_hand():
    """exp(−1) = 0.3679 rescales the first block, and the last leaves m where it was."""
    x = torch.tensor([1.0, 0.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    y, trace = online_softmax(x, block=2)
    e = math.exp
    first, second, third = 1 + e(-1), (1 + e(-1)) * e(-1) + 2, (1 + e(-1)) * e(-1) + 2 + e(-1)
    assert trace.m.tolist() == [1, 2, 2]
    assert trace.d.tolist() == pytest.approx([first, second, third], rel=1e-15)
    assert y.tolist() == pytest.approx([e(v - 2) / third for v in x.tolist()], rel=1e-15)


def test_powers_of_two_are_exact_fractions():
    x = torch.tensor([0, 1, 3, 2, 0], dtype=torch.float64) * math.log(2)
    expected = [Fraction(w, 16) for w in (1, 2, 8, 4, 1)]
    for y in both(x):
        assert y.tolist() == pytest.approx([float(f) for f in expected], rel=1e-14)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 11, 100])
def test_any_block(block):
    x = 5 * torch.randn(3, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, trace = online_softmax(x, block=block)
    torch.testing.assert_close(y, x.softmax(-1), atol=1e-15, rtol=1e-13)
    blocks = math.ceil(11 / block)
    assert trace.m.shape == trace.d.shape == (3, 5, blocks)
    for step in range(blocks):
        seen = x[..., : (step + 1) * block]
        lse = trace.m[..., step] + trace.d[..., step].log()
        torch.testing.assert_close(lse, seen.logsumexp(-1), atol=1e-13, rtol=1e-13)
        assert torch.equal(trace.m[..., step], seen.amax(-1))


def test_numbers_whose_exponentials_overflow():
    x = torch.tensor([[1e4, 1e4 - 1, -1e4], [-1e4, -1e4 - 1, -3e4]])
    expected = torch.tensor([1, math.exp(-1), 0]) / (1 + math.exp(-1))
    for y in both(x, block=1):
        torch.testing.assert_close(y, expected.expand(2, 3), atol=1e-7, rtol=1e-6)


# Minus infinity


@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_minus_infinity_in_any_place(block):
    rows = torch.tensor(
        [
            [-INF, -INF, -INF, -INF],
            [-INF, -INF, -INF, 7.0],
            [-INF, 7.0, -INF, -INF],
            [7.0, -INF, -INF, -INF],
        ]
    )
    expected = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]])
    y, trace = online_softmax(rows, block=block)
    assert torch.equal(y, expected)
    assert torch.equal(safe_softmax(rows), expected)
    assert trace.m[0].unique().tolist() == [-INF]
    assert not trace.d[0].any()
    assert (trace.m[:, -1].tolist(), trace.d[:, -1].tolist()) == ([-INF, 7, 7, 7], [0, 1, 1, 1])


def test_rows_far_below_any_sentinel():
    """−1e30 in place of −inf would swallow these rows: they are as good as any."""
    x = torch.tensor([-3e38, -3e38, -INF, -INF])
    for y in both(x):
        assert y.tolist() == [0.5, 0.5, 0, 0]


# The dtypes


@pytest.mark.parametrize(
    ("dtype", "wide", "atol"),
    [
        (torch.float64, torch.float64, 1e-15),
        (torch.float32, torch.float32, 1e-6),
        (torch.float16, torch.float32, 1e-3),
        (torch.bfloat16, torch.float32, 8e-3),
    ],
)
def test_dtypes(dtype, wide, atol, device):
    x = torch.randn(7, 113, device=device).to(dtype)
    y, trace = online_softmax(x, block=16)
    assert (y.dtype, trace.m.dtype, trace.d.dtype) == (dtype, wide, wide)
    assert safe_softmax(x).dtype == dtype
    for mine in (y, safe_softmax(x)):
        torch.testing.assert_close(mine.double(), x.double().softmax(-1), atol=atol, rtol=1e-3)


def test_a_long_sum_in_half_precision():
    """Summed in float16, 5000 equal terms stop at 2048."""
    x = torch.zeros(5000, dtype=torch.float16)
    assert online_softmax(x, block=1000)[1].d[-1] == 5000
    for y in both(x, block=1):
        torch.testing.assert_close(y.double().sum().item(), 1.0, atol=1e-3, rtol=0)


def test_strided_and_empty_inputs():
    x = torch.randn(5, 3, 7).permute(2, 0, 1)[..., ::2]
    for y in both(x, block=1):
        torch.testing.assert_close(y, x.softmax(-1))
    y, trace = online_softmax(torch.empty(0, 5), block=2)
    assert (y.shape, trace.m.shape) == ((0, 5), (0, 3))
    assert safe_softmax(torch.empty(0, 5)).shape == (0, 5)


def test_gradients_are_those_of_softmax():
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 7, dtype=torch.float64)
    (expected,) = torch.autograd.grad((x.softmax(-1) * weights).sum(), x)
    for y in both(x):
        (got,) = torch.autograd.grad((y * weights).sum(), x)
        torch.testing.assert_close(got, expected, atol=1e-14, rtol=1e-12)


# The monoid

numbers = st.lists(st.floats(-700, 700) | st.just(-INF), min_size=1, max_size=12)


def pair(values):
    return normaliser(torch.tensor(values, dtype=torch.float64))


def same(one, other):
    assert torch.equal(one.m, other.m)
    torch.testing.assert_close(one.d, other.d, atol=0, rtol=1e-13)


@given(numbers, numbers, numbers)
def test_associative(a, b, c):
    a, b, c = pair(a), pair(b), pair(c)
    same(
        merge_normalisers(merge_normalisers(a, b), c), merge_normalisers(a, merge_normalisers(b, c))
    )


@given(numbers, numbers)
def test_commutative(a, b):
    a, b = pair(a), pair(b)
    same(merge_normalisers(a, b), merge_normalisers(b, a))


@given(numbers)
def test_identity(a):
    a = pair(a)
    nothing = (torch.tensor(-INF, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    for merged in (merge_normalisers(a, nothing), merge_normalisers(nothing, a)):
        assert torch.equal(merged.m, a.m)
        assert torch.equal(merged.d, a.d)


@given(numbers, st.data())
def test_any_split_gives_the_exact_sum(values, data):
    """Cut anywhere, merged in any order: Σ exp(x − max), by the standard library's exact sum."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values)))) | {0, len(values)})
    parts = [pair(values[a:b]) for a, b in pairwise(cuts)]
    parts = data.draw(st.permutations(parts))
    merged = parts[0]
    for part in parts[1:]:
        merged = merge_normalisers(merged, part)
    top = max(values)
    assert merged.m == top
    exact = 0.0 if top == -INF else math.fsum(math.exp(v - top) for v in values)
    assert merged.d.item() == pytest.approx(exact, rel=1e-13)


# What is refused


@pytest.mark.parametrize("block", [0, -1])
def test_a_block_must_have_a_size(block):
    with pytest.raises(ValueError, match=f"block must be at least 1, got {block}"):
        online_softmax(torch.ones(3), block=block)


@pytest.mark.parametrize("block", [2.0, True, None])
def test_a_block_is_counted(block):
    with pytest.raises(TypeError, match=f"block: expected an integer, got {block!r}"):
        online_softmax(torch.ones(3), block=block)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_empty_rows_are_refused(shape):
    for softmax in (safe_softmax, lambda x: online_softmax(x, block=1)):
        with pytest.raises(ValueError, match="x must have at least one number in a row, got shape"):
            softmax(torch.empty(shape))


def test_integers_are_refused():
    for softmax in (safe_softmax, lambda x: online_softmax(x, block=1)):
        with pytest.raises(TypeError, match=r"x must be floating point, got torch\.int64"):
            softmax(torch.ones(3, dtype=torch.int64))
        with pytest.raises(TypeError, match="x must be a tensor, got list"):
            softmax([1.0])
