"""hbm_bytes by hand; that a run moves as many bytes is in test_counted.py."""

import pytest
import torch

from companion.flash.study.cost import TileSizes, attention_flops, hbm_bytes, tile_sizes


def test_tiles_by_hand():
    """M = 1000 numbers, d = 7: ⌈1000 / 28⌉ = 36 rows, and 7 of the other kind."""
    assert tile_sizes(100, 7, sram_bytes=4000, element_bytes=4) == TileSizes(36, 7)
    assert tile_sizes(100, 7, sram_bytes=4003, element_bytes=4) == TileSizes(36, 7)  # whole numbers
    assert tile_sizes(100, 16, sram_bytes=512, element_bytes=4) == TileSizes(2, 2)
    assert tile_sizes(5, 7, sram_bytes=4000, element_bytes=4) == TileSizes(5, 5)
    assert tile_sizes(100, 7, sram_bytes=4 * 4 * 7, element_bytes=4) == TileSizes(1, 1)


@pytest.mark.parametrize(
    ("algorithm", "numbers"),
    [
        # Q, K, V in, S out, S in, P out, P in, O out: 4 · 100 · 7 + 4 · 100².
        ("naive", 2_800 + 40_000),
        # Fill O, ℓ, m (900); K and V (1400); 3 times Q, O, ℓ, m in (1600) and O, ℓ, m out (900).
        ("flash", 900 + 1_400 + 3 * 2_500),
        # Q in, O out (1400), the log-sum-exp out (100), and 3 times K and V (1400).
        ("tiled", 1_500 + 3 * 1_400),
    ],
)
@pytest.mark.parametrize("element_bytes", [2, 4, 8])
def test_by_hand(algorithm, numbers, element_bytes):
    """n = 100, d = 7, M = 1000: tiles of 36, 36 and 28 rows."""
    sizes = {"sram_bytes": 1000 * element_bytes, "element_bytes": element_bytes}
    assert hbm_bytes(100, 7, **sizes, algorithm=algorithm) == element_bytes * numbers


def test_one_tile_that_holds_all():
    sizes = {"sram_bytes": 10**6, "element_bytes": 2}
    assert hbm_bytes(11, 5, **sizes, algorithm="tiled") == 2 * (4 * 55 + 11)
    assert hbm_bytes(11, 5, **sizes, algorithm="flash") == 2 * (6 * 55 + 6 * 11)


@pytest.mark.parametrize("algorithm", ["flash", "tiled"])
def test_growth_is_that_of_theorem_2(algorithm):
    """Θ(n² d² / M): twice n, four times; twice d, four times; twice M, half. Naive: Θ(n²)."""

    def bytes_of(n=2**16, d=64, m=2**16):
        return hbm_bytes(n, d, sram_bytes=2 * m, element_bytes=2, algorithm=algorithm)

    assert bytes_of(n=2**17) / bytes_of() == pytest.approx(4, rel=0.01)
    assert bytes_of(d=128) / bytes_of() == pytest.approx(4, rel=0.02)
    assert bytes_of(m=2**17) / bytes_of() == pytest.approx(1 / 2, rel=0.02)
    naive = {"sram_bytes": 2**17, "element_bytes": 2, "algorithm": "naive"}
    assert hbm_bytes(2**17, 64, **naive) / hbm_bytes(2**16, 64, **naive) == pytest.approx(
        4, rel=0.01
    )
    assert hbm_bytes(2**16, 128, **naive) / hbm_bytes(2**16, 64, **naive) == pytest.approx(
        1, rel=0.01
    )


def test_a_large_count_is_exact():
    """2⁵³ is where floating point begins to round."""
    n = 2**30 + 1
    sizes = {"sram_bytes": 10**5, "element_bytes": 2, "algorithm": "naive"}
    assert hbm_bytes(n, 64, **sizes) == 2 * (4 * n * 64 + 4 * n * n)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"d": -1}, ValueError, "d must be at least 1, got -1"),
        ({"element_bytes": 0}, ValueError, "element_bytes must be at least 1, got 0"),
        ({"sram_bytes": 0}, ValueError, "sram_bytes must be at least 1, got 0"),
        (
            {"sram_bytes": 127},
            ValueError,
            "sram_bytes must hold 4 rows of 8 numbers, 128 bytes, got 127",
        ),
        ({"n": 2.0}, TypeError, r"n: expected an integer, got 2\.0"),
        ({"d": True}, TypeError, "d: expected an integer, got True"),
        (
            {"algorithm": "fast"},
            ValueError,
            "algorithm must be one of naive, tiled, flash, got 'fast'",
        ),
    ],
)
def test_impossible_sizes(change, error, message):
    sizes = {"n": 16, "d": 8, "sram_bytes": 128, "element_bytes": 4, "algorithm": "tiled"} | change
    with pytest.raises(error, match=message):
        hbm_bytes(sizes.pop("n"), sizes.pop("d"), **sizes)


def test_the_smallest_memory():
    sizes = {"sram_bytes": 128, "element_bytes": 4}
    assert hbm_bytes(16, 8, **sizes, algorithm="tiled") == 4 * (2 * 128 + 16 + 16 * 256)


def test_operations_by_counting_products():
    """Two products of n × d with d × n; five in the backward pass: S, dP, dV, dQ, dK."""
    n, d, heads = 7, 5, 3
    product = sum(2 for _ in range(n) for _ in range(n) for _ in range(d))
    assert attention_flops(n, d) == 2 * product
    assert attention_flops(n, d, heads=heads) == 2 * product * heads
    assert attention_flops(n, d, backward=True) == 5 * product
    assert attention_flops(n, d, causal=True) == product
    assert attention_flops(n, d, causal=True, backward=True, heads=2) == 5 * product


def test_operations_are_those_pytorch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    q = torch.randn(1, 3, 11, 5)
    with FlopCounterMode(display=False) as counter:
        (q @ q.mT).softmax(-1) @ q
    assert counter.get_total_flops() == attention_flops(11, 5, heads=3)


@pytest.mark.parametrize("name", ["n", "d", "heads"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        attention_flops(**{"n": 3, "d": 5, "heads": 7} | {name: 0})
    with pytest.raises(TypeError, match=rf"{name}: expected an integer, got 2\.0"):
        attention_flops(**{"n": 3, "d": 5, "heads": 7} | {name: 2.0})
