"""The roofline by hand; measured ceilings are only checked for what cannot be wrong."""

import pytest

from companion.measure import roofline
from companion.measure.roofline import (
    PUBLISHED,
    Ceilings,
    attainable_flops,
    measure_copy_bandwidth,
    measure_matmul_flops,
)


def test_below_at_and_above_the_ridge():
    machine = Ceilings(flops_per_s=100.0, bytes_per_s=20.0)
    assert machine.ridge == 5
    assert [attainable_flops(x, machine) for x in (0.5, 5, 5.5, 1e9)] == [10, 100, 100, 100]


def test_published_ridges():
    """312 / 1.5 and 989 / 3.35 operations per byte."""
    assert PUBLISHED["A100"].ridge == pytest.approx(208)
    assert PUBLISHED["H100"].ridge == pytest.approx(295.2, abs=0.1)


@pytest.mark.parametrize("intensity", [0.0, -1.0, float("nan")])
def test_intensity_must_be_positive(intensity):
    with pytest.raises(ValueError, match=f"more than 0 operations per byte, got {intensity}"):
        attainable_flops(intensity, PUBLISHED["A100"])


def test_ceilings_from_a_clock_that_we_turn(monkeypatch):
    """Runs of 1 (dropped), 4, 2 and 8 seconds: the best is 2."""
    ticks = iter([0, 1, 10, 14, 20, 22, 30, 38] * 2)
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(ticks))
    assert measure_matmul_flops(size=10, repeats=3) == 2 * 1000 / 2
    assert measure_copy_bandwidth(size_bytes=600, repeats=3) == 2 * 600 / 2


def test_ceilings_of_this_machine(device):
    """Timed to the end: no machine does 10¹⁷ operations or moves 10¹⁵ bytes a second."""
    assert 1e6 < measure_matmul_flops(device=device, size=256, repeats=2) < 1e17
    assert 1e6 < measure_copy_bandwidth(device=device, size_bytes=2**22, repeats=2) < 1e15
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        measure_matmul_flops(repeats=0, size=2)
