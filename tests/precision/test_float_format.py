"""Formats against PyTorch's, numpy's and struct's, code by code and bit by bit."""

import math
import struct

import numpy as np
import pytest
import torch

from companion.precision import BF16, E4M3, E5M2, FP16, FP32, FP64, TF32, FloatFormat

SIXTEEN = [(FP16, torch.float16), (BF16, torch.bfloat16)]
EIGHT = [(E4M3, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)]
UNSIGNED = {8: torch.uint8, 16: torch.int16}


def bits_of(values, dtype):
    """PyTorch's cast, as codes."""
    width = torch.finfo(dtype).bits
    return values.to(dtype).view(UNSIGNED[width]).to(torch.int64) % 2**width


def random_float32(count, seed):
    """Every bit pattern is as likely as every other."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (count,), generator=generator).to(torch.int32)
    return bits.view(torch.float32)


@pytest.mark.parametrize(("fmt", "dtype"), SIXTEEN + EIGHT)
def test_every_code_is_torchs(fmt, dtype):
    codes = torch.arange(2**fmt.bits)
    values = codes.to(UNSIGNED[fmt.bits]).view(dtype).double()
    ours, numbers = fmt.decode(codes), ~values.isnan()
    assert torch.equal(ours.isnan(), values.isnan())
    assert torch.equal(ours[numbers], values[numbers])
    assert torch.equal(torch.signbit(ours[numbers]), torch.signbit(values[numbers]))
    assert torch.equal(fmt.encode(values)[numbers], codes[numbers])
    assert fmt.decode(fmt.encode(values[~numbers])).isnan().all()


@pytest.mark.parametrize(("fmt", "dtype"), SIXTEEN)
def test_a_million_float32_numbers_round_as_torch_rounds_them(fmt, dtype):
    values = random_float32(10**6, seed=1)
    numbers = ~values.isnan()
    assert torch.equal(fmt.encode(values)[numbers], bits_of(values, dtype)[numbers])
    for wide in (values, values.double()):  # through PyTorch's cast and through our own rounding
        rounded = fmt.round(wide)
        assert rounded.dtype == wide.dtype
        assert torch.equal(rounded[numbers].float(), values.to(dtype).float()[numbers])


@pytest.mark.parametrize(("fmt", "dtype"), EIGHT)
def test_float8_in_range_rounds_as_torch_rounds_it(fmt, dtype):
    values = random_float32(10**6, seed=2)
    values = values[values.abs() <= fmt.max]
    assert torch.equal(fmt.encode(values), bits_of(values, dtype))


@pytest.mark.parametrize(
    ("fmt", "plain", "saturated"),
    [(E4M3, [448.0, math.nan, math.nan], [448.0, 448.0, 448.0]),
     (E5M2, [448.0, 448.0, math.inf], [448.0, 448.0, 57344.0]),
     (FP16, [464.0, 465.0, math.inf], [464.0, 465.0, 65504.0])],
)  # fmt: skip
def test_what_is_too_large(fmt, plain, saturated):
    """464 lies half-way between E4M3's largest number and the one that would follow."""
    values = torch.tensor([464.0, 465.0, math.inf])
    for negative in (1, -1):
        got = [fmt.round(negative * values, saturate=s).tolist() for s in (False, True)]
        assert got[0] == pytest.approx([negative * v for v in plain], nan_ok=True)
        assert got[1] == [negative * v for v in saturated]


def test_fp64_and_fp32_against_struct():
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(-(2**63), 2**63 - 1, (10**6,), generator=generator)
    values = torch.from_numpy(np.frombuffer(codes.numpy().tobytes(), dtype="<f8").copy())
    numbers = ~values.isnan()
    assert torch.equal(FP64.decode(codes)[numbers], values[numbers])
    assert torch.equal(FP64.encode(values)[numbers], codes[numbers])
    near_zero = [5e-324, 2.0**-149, 2.0**-150, 3 * 2.0**-150]
    for value in [*values[numbers][:2000].tolist(), *near_zero]:
        if abs(value) < FP32.max:
            (expected,) = struct.unpack("<I", struct.pack("<f", value))
            assert FP32.encode(torch.tensor(value, dtype=torch.float64)).item() == expected


def test_numpy_rounds_float64_to_float16_once():
    """By way of float32, as PyTorch goes, 1 + 2^-11 + 2^-40 becomes a tie and rounds down."""
    tie = 1 + 2.0**-11
    values = torch.tensor([tie, tie + 2.0**-40, 2.0**-25, 2.0**-25 * (1 + 1e-12)],
                          dtype=torch.float64)  # fmt: skip
    expected = values.numpy().astype(np.float16).view(np.uint16).astype(np.int64)
    assert FP16.encode(values).tolist() == expected.tolist()
    assert FP16.round(values).tolist() == [1.0, 1 + 2.0**-10, 0.0, 2.0**-24]


def test_toy_format_by_hand():
    """Three exponent and two fraction bits: 1.75 · 2^3 is the largest; subnormals step by 1/16."""
    toy = FloatFormat(3, 2)
    assert (toy.max, toy.min_normal, toy.min_subnormal, toy.epsilon) == (14.0, 0.25, 0.0625, 0.25)
    positive = toy.decode(torch.arange(28)).tolist()
    assert positive[:9] == [0, 0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5]
    assert positive[-4:] == [8, 10, 12, 14]
    assert toy.decode(torch.tensor([28, 60])).tolist() == [math.inf, -math.inf]
    ties = torch.tensor([9.0, 11.0, 13.0, 15.0, 0.03125, 0.09375, -9.0])
    assert toy.round(ties).tolist() == [8, 12, 12, math.inf, 0, 0.125, -8]
    assert toy.round(ties, rounding="truncate").tolist() == [8, 10, 12, 14, 0, 0.0625, -8]
    assert toy.ulp(torch.tensor([0.0, 0.2, 0.5, 1.0, 13.0])).tolist() == [
        0.0625, 0.0625, 0.125, 0.25, 2.0]  # fmt: skip
    assert toy.ulp(torch.tensor([16.0, math.inf, math.nan])).isnan().all()
    assert toy.fields(-0.375) == ("1", "001", "10")


@pytest.mark.parametrize("fmt", [FP16, BF16, TF32, FP32])
def test_nearest_is_within_half_a_unit_and_half_an_epsilon(fmt):
    values = random_float32(10**5, seed=4).double()
    values = values[(values.abs() >= fmt.min_normal) & (values.abs() <= fmt.max)]
    error = (fmt.round(values) - values).abs()
    assert (error <= fmt.ulp(values) / 2).all()
    assert (error <= fmt.epsilon / 2 * values.abs()).all()


def test_truncation_goes_towards_zero_and_stays_finite():
    values = torch.tensor([1.9995, -1.9995, 1e5, -1e5, math.inf, -math.inf, 1e-30])
    got = FP16.round(values, rounding="truncate").tolist()
    below_two = 2 - 2.0**-10
    assert got == [below_two, -below_two, 65504, -65504, math.inf, -math.inf, 0]


def test_stochastic_rounding_is_right_on_average_and_between_neighbours():
    generator = torch.Generator().manual_seed(5)
    for value in (1 + 2.0**-10 * 0.3, -(1 + 2.0**-10 * 0.3), 2.0**-24 * 0.3):
        many = torch.full((100_000,), value, dtype=torch.float64)
        rounded = FP16.round(many, rounding="stochastic", generator=generator)
        unit = FP16.ulp(many[:1]).item()
        assert len(rounded.unique()) == 2
        # Standard error of the mean of 100,000 draws with p = 0.3, times five.
        assert abs(rounded.mean().item() - value) < 5 * unit * math.sqrt(0.21 / 100_000)
    exact = torch.tensor([1.5, 0.0, -2.0, 65504.0, math.inf])
    assert FP16.round(exact, rounding="stochastic").tolist() == exact.tolist()


def test_zero_keeps_its_sign_and_nan_becomes_the_quiet_one():
    codes = FP16.encode(torch.tensor([0.0, -0.0, math.nan, -math.nan]))
    assert codes.tolist() == [0, 0x8000, 0x7E00, 0x7E00]
    assert E4M3.encode(torch.tensor([math.nan])).tolist() == [0x7F]
    assert FP16.encode(torch.tensor([-1e-9])).tolist() == [0x8000]


def test_shapes_and_layouts():
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(6)).t()
    assert torch.equal(FP16.round(values), values.half().float())
    assert FP16.encode(torch.zeros(0, 3)).shape == (0, 3)
    assert FP16.round(torch.tensor(0.1, dtype=torch.float16)).dtype == torch.float16
    assert TF32.round(torch.tensor(0.1, dtype=torch.bfloat16)).dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: FloatFormat(1, 3), ValueError, r"exponent_bits must be in \[2, 11\], got 1"),
        (lambda: FloatFormat(5, 53), ValueError, r"fraction_bits must be in \[1, 52\], got 53"),
        (lambda: FloatFormat(8, 10, bias=1100), ValueError, "got -1109 to -846"),
        (lambda: FP16.decode(torch.tensor([0.5])), TypeError, "integers, got torch.float32"),
        (lambda: FP16.decode(torch.tensor([65536])), ValueError, r"\[0, 2\^16\), got 65536"),
        (lambda: FP16.decode(torch.tensor([-1])), ValueError, r"\[0, 2\^16\), got -1"),
        (lambda: FP16.encode(torch.tensor([1])), TypeError, "numbers, got torch.int64"),
        (lambda: FP16.round(torch.ones(1), rounding="up"), ValueError, "rounding must be one of"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()
