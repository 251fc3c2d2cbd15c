"""Dot products and sums in few bits against numpy's arithmetic, exact fractions and math.fsum."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from companion.precision import (
    BF16,
    E4M3,
    FP16,
    FP32,
    FP64,
    TF32,
    FloatFormat,
    accumulate,
    kahan_sum,
    stochastic_round,
)

LENGTH = 501
TINY = 2.0**-11  # then products of float16 numbers are subnormal


def vectors(dtype, seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(LENGTH, generator=generator) * size).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("size", [1.0, TINY, 100.0])
@pytest.mark.parametrize(
    ("products", "sums", "product_dtype", "sum_dtype"),
    [
        (FP16, FP16, np.float16, np.float16),
        (FP16, FP32, np.float16, np.float32),
        (FP32, FP32, np.float32, np.float32),
        (FP32, FP16, np.float32, np.float16),
    ],
)
@np.errstate(over="ignore", invalid="ignore")
def test_every_rounding_is_numpys(products, sums, product_dtype, sum_dtype, size):
    a, b = vectors(torch.float16, 0, size)
    short = a.numpy().astype(product_dtype) * b.numpy().astype(product_dtype)
    if sum_dtype == product_dtype or sum_dtype == np.float32:
        expected = np.add.accumulate(short.astype(sum_dtype))
    else:  # numpy would round the products first
        total, expected = np.float16(0), []
        for product in short:
            total = np.float16(np.float32(total) + product)
            expected.append(total)
    for count in (1, 2, 77, LENGTH):
        got = accumulate(a[:count], b[:count], products=products, sums=sums)
        assert got.value == pytest.approx(float(expected[count - 1]), abs=0, nan_ok=True)


def test_every_rounding_is_torchs_in_bfloat16():
    a, b = vectors(torch.bfloat16, 1)
    total = torch.zeros((), dtype=torch.bfloat16)
    for x, y in zip(a, b, strict=True):
        total = total + x * y
    assert accumulate(a, b, products=BF16, sums=BF16).value == total.item()


@pytest.mark.parametrize("fmt", [E4M3, TF32, FloatFormat(3, 2)])
def test_every_rounding_is_the_formats(fmt):
    """One at a time through the codes; the last format soon overflows."""
    a, b = (fmt.round(x.double()) for x in vectors(torch.float32, 2))
    total = torch.zeros((), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        total = fmt.decode(fmt.encode(total + fmt.decode(fmt.encode(x * y))))
    got = accumulate(a, b, products=fmt, sums=fmt).value
    assert got == pytest.approx(total.item(), abs=0, nan_ok=True)


@pytest.mark.parametrize(("products", "sums"), [(FP16, FP16), (BF16, FP32), (FP32, FP32)])
def test_the_error_is_that_of_fractions(products, sums):
    a, b = vectors(torch.float32, 3)
    value, error = accumulate(a, b, products=products, sums=sums)
    exact = sum(Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    assert error == float(Fraction(value) - exact)
    assert error != 0


def test_an_overflow_has_a_value_and_no_error():
    ones = torch.ones(3)
    for large, value in (
        ([6e4, 6e4, 0.0], math.inf),
        ([1.0, -math.inf, 1.0], -math.inf),
        ([math.inf, -math.inf, 0.0], math.nan),
        ([math.nan, 0.0, 0.0], math.nan),
    ):
        got = accumulate(torch.tensor(large), ones, products=FP16, sums=FP16)
        assert got == pytest.approx((value, math.nan), nan_ok=True)
    assert accumulate(ones[:0], ones[:0], products=FP16, sums=FP16) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("dtype", "fmt", "count"),
    [
        (torch.float16, FP16, 1000),
        (torch.bfloat16, BF16, 200),  # the term n·u² stays below u
        (torch.float32, FP32, 8000),
        (torch.float64, FP64, 3000),
    ],
)
def test_kahans_sum_is_within_two_units_where_the_plain_one_is_not(dtype, fmt, count):
    generator = torch.Generator().manual_seed(4)
    values = torch.rand(count, generator=generator, dtype=torch.float64)
    values = (0.1 + values / 1000).to(dtype)  # so that many roundings go the same way
    exact = math.fsum(values.tolist())
    unit = fmt.ulp(torch.tensor(exact)).item()
    plain = torch.zeros((), dtype=dtype)
    for value in values:
        plain = plain + value
    got = kahan_sum(values, dtype)
    assert got.dtype == dtype
    assert abs(got.item() - exact) <= 2 * unit
    assert abs(plain.item() - exact) > 2 * unit
    strided = torch.stack((values, values), dim=1)[:, 1]
    assert kahan_sum(strided, dtype) == got


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([], 0.0),
        ([math.inf, 1.0, 2.0], math.inf),
        ([1.0, -math.inf, 2.0], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([1.0, math.nan, 1.0], math.nan),
        ([6e4, 6e4, -6e4], math.inf),  # 120,000 is beyond float16
        ([1e5], math.inf),  # rounded first
    ],
)
def test_kahans_sum_of_what_is_not_finite(values, total):
    got = kahan_sum(torch.tensor(values), torch.float16).item()
    assert got == pytest.approx(total, nan_ok=True)


@pytest.mark.parametrize(("dtype", "fmt"), [(torch.float16, FP16), (torch.bfloat16, BF16)])
def test_stochastic_rounding_is_right_on_average(dtype, fmt):
    x = torch.tensor([1 + 0.3 * fmt.epsilon, -3 - 0.8 * fmt.epsilon]).expand(50_000, 2)
    rounded = stochastic_round(x, dtype, generator=torch.Generator().manual_seed(5))
    assert (rounded.dtype, rounded.shape) == (dtype, x.shape)
    for column, low in ((0, 1.0), (1, -3.0 - 2 * fmt.epsilon)):
        units = fmt.ulp(x[:1, column]).item()
        assert rounded[:, column].double().unique().tolist() == [low, low + units]
        # Five standard errors of the mean; p(1 − p) is at most 1/4.
        error = (rounded[:, column].double() - x[:, column].double()).mean().abs()
        assert error < 5 * units * math.sqrt(0.25 / 50_000)


def test_stochastic_rounding_repeats_with_its_generator_only():
    x = torch.full((1000,), 0.1)
    one, two, other = (
        stochastic_round(x, torch.bfloat16, generator=torch.Generator().manual_seed(seed))
        for seed in (6, 6, 7)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    state = torch.get_rng_state()
    stochastic_round(x, torch.bfloat16, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    stochastic_round(x, torch.bfloat16)
    assert not torch.equal(torch.get_rng_state(), state)
    held = x.bfloat16().float()
    assert torch.equal(stochastic_round(held, torch.bfloat16).float(), held)


def test_stochastic_rounding_moves_a_weight_that_nearest_leaves():
    generator = torch.Generator().manual_seed(8)
    start = torch.ones(2000, dtype=torch.bfloat16)
    nearest, stochastic = start, start
    for _ in range(256):
        nearest = nearest + 2.0**-10  # an eighth of a unit
        sums = stochastic.float() + 2.0**-10
        stochastic = stochastic_round(sums, torch.bfloat16, generator=generator)
    assert torch.equal(nearest, start)
    # A step's variance is p(1 − p) units², p = 1/8; the mean of 2000 weights, five standard errors.
    spread = 2.0**-7 * math.sqrt(256 * 7 / 64 / 2000)
    assert abs(stochastic.float().mean().item() - 1.25) < 5 * spread


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: accumulate(x, x[1:], products=FP16, sums=FP16), r"got \(3,\) and \(2,\)"),
        (lambda x: accumulate(x[None], x[None], products=FP16, sums=FP16), r"got \(1, 3\) and"),
        (lambda x: accumulate(x, x, products=FP64, sums=FP16), "products: expected at .* 23 .*52"),
        (lambda x: accumulate(x, x, products=FP16, sums=FP64), "sums: expected at most 23 .*52"),
        (lambda x: kahan_sum(x[None], torch.float16), r"expected shape \(N,\), got \(1, 3\)"),
        (lambda x: kahan_sum(x, torch.int8), "dtype must be one of float16, .*got torch.int8"),
        (lambda x: stochastic_round(x, torch.int8), "dtype must be one of .*got torch.int8"),
    ],
)  # fmt: skip
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call(torch.ones(3))


def test_only_floating_point_numbers():
    numbers, x = torch.ones(3, dtype=torch.complex64), torch.ones(3)
    for name, call in (
        ("a", lambda: accumulate(numbers, x, products=FP16, sums=FP16)),
        ("b", lambda: accumulate(x, numbers, products=FP16, sums=FP16)),
        ("values", lambda: kahan_sum(numbers, torch.float16)),
        ("x", lambda: stochastic_round(x.long(), torch.float16)),
    ):
        with pytest.raises(TypeError, match=f"{name}: expected floating-point numbers, got"):
            call()
