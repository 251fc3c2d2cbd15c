"""Float8Scaling: scales by hand, codes against FloatFormat's, and what is too large."""

import io
import math

import pytest
import torch

from companion.precision import E4M3, E5M2, FP16
from companion.precision.float8 import Float8Scaling


def scales(scaling, *magnitudes):
    """The scale in each of several calls whose largest magnitude is given."""
    return [scaling.quantize(torch.tensor([m / 8, -m]))[1].item() for m in magnitudes]


def test_current_follows_the_tensor():
    assert scales(Float8Scaling(E4M3, mode="current"), 2.0, 8.0, 0.5) == [224, 56, 896]
    assert scales(Float8Scaling(E5M2, mode="current", margin=3), 2.0, 8.0) == [3584, 896]


def test_delayed_follows_the_calls_before_and_forgets():
    """The first call has none before it; a magnitude of 8 is remembered for two calls."""
    magnitudes = (2.0, 8.0, 1.0, 1.0, 1.0, 0.5)
    assert scales(Float8Scaling(E4M3, history=2), *magnitudes) == [224, 224, 56, 56, 448, 448]
    assert scales(Float8Scaling(E4M3, history=1), *magnitudes) == [224, 224, 56, 448, 448, 448]
    assert scales(Float8Scaling(E4M3, margin=1), *magnitudes)[:3] == [112, 112, 28]


@pytest.mark.parametrize(("fmt", "dtype"), [(E4M3, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)])
@pytest.mark.parametrize("mode", ["current", "delayed"])
def test_codes_are_those_of_the_format(fmt, dtype, mode):
    """Magnitudes over forty powers of two; "delayed" has seen a tensor a thousand times smaller."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(37, 53, generator=generator) * torch.exp2(
        torch.randint(-20, 20, (37, 1), generator=generator)
    )
    scaling = Float8Scaling(fmt, mode=mode)
    scaling.quantize(x / 1024)
    codes, scale = scaling.quantize(x)
    scaled = (x * scale).clamp(-fmt.max, fmt.max)
    assert codes.dtype == dtype
    assert codes.view(torch.uint8).tolist() == fmt.encode(scaled).tolist()
    assert torch.equal(
        scaling.dequantize(codes, scale), fmt.decode(fmt.encode(scaled)).float() / scale
    )
    clipped = (codes.float().abs() == fmt.max).sum()
    assert clipped > 30 if mode == "delayed" else clipped >= 1


@pytest.mark.parametrize("fmt", [E4M3, E5M2])
def test_what_has_just_grown_is_clipped(fmt):
    """The trap: unclamped, E5M2's cast gives infinity, and E4M3's what the version likes."""
    scaling = Float8Scaling(fmt)
    scaling.quantize(torch.tensor([1.0]))
    codes, scale = scaling.quantize(torch.tensor([5.0, -5.0, 0.5, math.inf, -math.inf]))
    assert scaling.dequantize(codes, scale).tolist() == [1.0, -1.0, 0.5, 1.0, -1.0]


@pytest.mark.parametrize("mode", ["current", "delayed"])
def test_zeros_infinities_and_nan_leave_the_scale(mode):
    scaling = Float8Scaling(E4M3, mode=mode, history=1)
    codes, scale = scaling.quantize(torch.zeros(3))
    assert (codes.float().tolist(), scale.item()) == ([0.0, 0.0, 0.0], 1.0)
    for _ in range(2):
        scaling.quantize(torch.tensor([4.0]))
    for value, becomes in ((math.inf, 448.0), (-math.inf, -448.0), (math.nan, math.nan)):
        codes, scale = scaling.quantize(torch.tensor([value, 2.0]))
        assert scale.item() == 112.0
        assert codes.float().tolist() == pytest.approx([becomes, 224.0], nan_ok=True)
    for x in (torch.zeros(3), torch.tensor([1e-40, 0.0, 0.0])):  # 448 / 1e-40 is infinite
        codes, scale = scaling.quantize(x)
        assert (scale.item(), codes.float().tolist()) == (112.0, [0.0, 0.0, 0.0])
    assert scaling.quantize(torch.zeros(0, 3))[0].shape == (0, 3)


def test_any_layout_and_short_dtypes():
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1)).transpose(0, 2)
    for short in (x.bfloat16(), x.half(), x.double().requires_grad_()):
        codes, scale = Float8Scaling(E4M3).quantize(short)
        assert (codes.shape, scale.dtype, scale.requires_grad) == ((7, 5, 3), torch.float32, False)
        # Half a unit of the largest number's, 32, or 2^-4 of the value: 3 fraction bits.
        error = (Float8Scaling.dequantize(codes, scale) - short.detach().float()).abs()
        assert (error <= (short.detach().float().abs() / 16).clamp(min=2.0**-10 / scale)).all()
    assert Float8Scaling(E4M3).quantize(torch.tensor(-3.0))[0].item() == -448.0


def test_what_is_not_finite_is_not_remembered():
    for odd in (math.inf, math.nan):
        assert scales(Float8Scaling(E4M3, history=3), 4.0, odd, 8.0, 1.0) == [112, 112, 112, 56]


@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("calls", [1, 3, 4])
def test_a_restart_goes_on_with_the_same_scales(history, calls):
    magnitudes = (2.0, 8.0, 1.0, 0.0, 1.0, 0.5)
    whole, part, again = (Float8Scaling(E4M3, history=history) for _ in range(3))
    file, expected = io.BytesIO(), scales(whole, *magnitudes)
    scales(part, *magnitudes[:calls])
    torch.save(part.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert scales(again, *magnitudes[calls:]) == expected[calls:]


def test_a_shorter_history_takes_the_last_calls():
    scaling, shorter = Float8Scaling(E4M3, history=3), Float8Scaling(E4M3, history=1)
    scales(scaling, 2.0, 8.0, 1.0)
    shorter = Float8Scaling(E4M3, history=1)
    shorter.load_state_dict(scaling.state_dict())
    assert scales(shorter, 1.0) == [448.0]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: Float8Scaling(FP16), ValueError, "format: expected E4M3 or E5M2, got FloatFormat"),
        (lambda: Float8Scaling(E4M3, history=0), ValueError, "history must be at least 1, got 0"),
        (lambda: Float8Scaling(E4M3, margin=-1), ValueError, "margin must be at least 0, got -1"),
        (lambda: Float8Scaling(E4M3, mode="x"), ValueError, "mode must be one of delayed, current"),
        (lambda: Float8Scaling(E4M3).quantize(torch.tensor([1])), TypeError, "got torch.int64"),
        (lambda: Float8Scaling(E4M3).load_state_dict({"lr": 1}), ValueError, r"got \['lr'\]"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
