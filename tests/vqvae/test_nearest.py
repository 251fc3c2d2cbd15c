"""The nearest code: by hand, against distances by the definition, and what it costs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.measure.peak_memory import peak_bytes
from companion.vqvae import nearest
from companion.vqvae.nearest import nearest_code, squared_distances
from tests.vqvae.nearest_cases import (
    EXACT_OFFSETS,
    assert_nearest,
    cloud,
    exact_grid,
    strided,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def short_steps(monkeypatch):
    """Sixteen rows at a time, whatever K."""
    monkeypatch.setattr(nearest, "CPU_BYTES", 1)


def test_by_hand():
    codebook = torch.tensor([[0.0, 0.0], [3.0, 4.0], [-1.0, 2.0], [3.0, 4.0]])
    z = torch.tensor([[[2.9, 4.2], [-9.0, -9.0], [-1.0, 1.5]]])
    assert nearest_code(z, codebook).tolist() == [[1, 0, 2]]
    assert squared_distances(z[0, 2], codebook).tolist() == [3.25, 22.25, 0.25, 22.25]


@pytest.mark.parametrize("dtype", DTYPES)
def test_distances_keep_small_differences(dtype):
    z, codebook = (x.to(dtype) for x in cloud(5, 7, 3, far=40))
    expected = (z.double()[:, None] - codebook.double()).square().sum(-1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found = squared_distances(z, codebook)
    assert found.dtype == wide
    # Three rounded differences, squares and sums of what is exact: (D + 2) u each.
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=5 * torch.finfo(wide).eps)


@given(
    dtype=st.sampled_from(DTYPES),
    far=st.booleans(),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 33), st.integers(1, 5)),
    seed=st.integers(0, 999),
)
def test_where_nothing_is_rounded_it_is_the_first_of_the_nearest(dtype, far, sizes, seed):
    z, codebook = exact_grid(*sizes, offset=far * EXACT_OFFSETS[dtype], seed=seed)
    expected = (z[:, None] - codebook).square().sum(-1).argmin(1)
    assert torch.equal(nearest_code(z.to(dtype), codebook.to(dtype)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("far", [0.0, 30.0, 1e4])
@pytest.mark.usefixtures("short_steps")
def test_is_nearest_within_rounding(dtype, far):
    """Steps of 16 rows over 39; at 1e4 two float32 terms of 1e9 would hide every difference."""
    z, codebook = (x.to(dtype) for x in cloud(39, 37, 11, far=far))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found = nearest_code(z.reshape(3, 13, 11), codebook)
    assert_nearest(found, z.reshape(3, 13, 11), codebook, wide=wide)
    assert torch.equal(nearest_code(strided(z), strided(codebook)), found.flatten())


def test_vectors_far_from_all_codes():
    (z, _), (_, codebook) = cloud(39, 37, 11, far=1e3), cloud(39, 37, 11)
    found = nearest_code(z.float(), codebook.float())
    assert_nearest(found, z.float(), codebook.float(), wide=torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round_the_distances(dtype):
    codebook = torch.linspace(-1, 1, 2049)[:, None]  # 2⁻¹⁰ apart, all exact in float32
    z = codebook + 2**-12
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(nearest_code(z, codebook), torch.arange(2049))


def test_the_centre_is_near_the_mean_and_has_few_digits():
    codes = torch.tensor([[1000.5, 0.1], [1001.5, 0.4], [1002.0, -0.6]])
    assert nearest._centre(codes).tolist() == [1001.0, 0.0]  # 1001.33 and −0.03, in whole numbers
    assert nearest._centre(codes - torch.tensor([1001.0, 0.0])).tolist() == [0, 0]
    assert torch.equal(nearest._centre(codes[:1]), codes[0])


def test_shapes():
    codebook = torch.randn(5, 3)
    assert nearest_code(codebook[4], codebook).shape == ()
    assert nearest_code(codebook[4], codebook) == 4
    assert nearest_code(codebook[:0], codebook).shape == (0,)
    empty = nearest_code(torch.zeros(2, 0, 7, 3), codebook)
    assert empty.shape == (2, 0, 7)
    assert empty.dtype == torch.int64


def test_no_gradient():
    z, codebook = torch.randn(7, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    before = z.detach().clone(), codebook.detach().clone()
    assert not nearest_code(z, codebook).requires_grad
    assert torch.equal(z, before[0])
    assert torch.equal(codebook, before[1])


def test_not_a_number():
    codebook = torch.tensor([[5.0, 5.0], [0.0, 1.0], [1.0, 0.0]])
    z = torch.tensor([[1.0, 0.0], [math.nan, 0.0], [math.nan, math.nan], [0.0, 1.0]])
    assert nearest_code(z, codebook).tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize(("n", "k", "d"), [(9000, 1025, 7), (501, 16384, 3), (140, 99999, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_with_n_times_k(n, k, d, dtype):
    z, codebook = torch.randn(n, d).to(dtype), torch.randn(k, d).to(dtype)
    peak = peak_bytes(lambda: nearest_code(z, codebook))
    scores = max(2**22, 16 * 4 * k)
    of_codes = 4 * k * (3 * d + 1)  # in float32; less the centre; squared; and their sums
    of_vectors = 8 * n + 2**22 // k * d  # the answer, and one step of z less the centre
    assert peak <= scores + of_codes + of_vectors + 1000
    assert scores + of_codes + of_vectors < 4 * n * k / 2  # a matrix of distances would show


def test_who_searches(monkeypatch):
    for installed in (object(), None):
        nearest._uses_triton.cache_clear()
        monkeypatch.setattr(nearest.importlib.util, "find_spec", lambda name, it=installed: it)
        assert nearest._uses_triton("cuda", torch.float16) == (installed is not None)
        assert not nearest._uses_triton("cuda", torch.float64)
        assert not nearest._uses_triton("cpu", torch.float32)
        assert not nearest._uses_triton("mps", torch.float32)
    nearest._uses_triton.cache_clear()


GOOD = torch.ones(7, 3)
REFUSED = [
    (GOOD, torch.ones(5, 2), ValueError, r"codes' width, 2, as last dimension, got \(7, 3\)"),
    (torch.tensor(1.0), GOOD, ValueError, r"width, 3, as last dimension, got \(\)"),
    (GOOD, torch.ones(0, 3), ValueError, r"shape \(K, D\), both at least 1, got \(0, 3\)"),
    (torch.ones(7, 0), torch.ones(5, 0), ValueError, r"both at least 1, got \(5, 0\)"),
    (GOOD, torch.ones(2, 5, 3), ValueError, r"both at least 1, got \(2, 5, 3\)"),
    (GOOD.half(), GOOD, TypeError, r"expected z's dtype, torch.float16, got torch.float32"),
    (GOOD.int(), GOOD.int(), TypeError, r"z: expected a tensor of floating-point numbers"),
    (GOOD, GOOD.to("meta"), ValueError, r"expected z's device, cpu, got meta"),
]


@pytest.mark.parametrize(("z", "codebook", "error", "message"), REFUSED)
@pytest.mark.parametrize("function", [nearest_code, squared_distances])
def test_refused(function, z, codebook, error, message):
    with pytest.raises(error, match=message):
        function(z, codebook)
