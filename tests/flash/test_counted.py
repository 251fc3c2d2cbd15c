"""Runs that count: what they compute is attention, and what they move is hbm_bytes."""

import pytest
import torch
from torch.nn import functional as F

from companion.flash.naive import naive_attention
from companion.flash.study.cost import ALGORITHMS, hbm_bytes
from companion.flash.study.counted import Memory, counted_attention

# Length, width, numbers in the fast memory: ragged tiles, tiles of one row, one tile that holds all
SIZES = [(64, 16, 512), (37, 5, 220), (11, 3, 12), (23, 7, 10_000), (1, 1, 4), (50, 16, 65)]


def inputs(n, d, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n)
    return [
        3 * torch.randn(n, d, dtype=torch.float64, generator=generator).to(dtype) for _ in range(3)
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("n", "d", "numbers"), SIZES)
def test_computes_attention(n, d, numbers, algorithm):
    q, k, v = inputs(n, d)
    run = counted_attention(q, k, v, sram_bytes=8 * numbers, algorithm=algorithm)
    torch.testing.assert_close(run.out, naive_attention(*(x[None, None] for x in (q, k, v)))[0, 0])
    expected = F.scaled_dot_product_attention(*(x[None] for x in (q, k, v)))[0]
    torch.testing.assert_close(run.out, expected, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("n", "d", "numbers"), SIZES)
def test_moves_what_the_formula_says(n, d, numbers, algorithm, dtype):
    sizes = {"sram_bytes": dtype.itemsize * numbers, "algorithm": algorithm}
    run = counted_attention(*inputs(n, d, dtype), **sizes)
    assert run.hbm_bytes == hbm_bytes(n, d, element_bytes=dtype.itemsize, **sizes)


def test_reads_and_writes_by_hand():
    """n = 5, d = 2, M = 16 numbers of 8 bytes: tiles of 2 rows, so 3 outer tiles."""
    runs = {
        algorithm: counted_attention(*inputs(5, 2), sram_bytes=128, algorithm=algorithm)
        for algorithm in ALGORITHMS
    }
    numbers = {name: (run.read_bytes / 8, run.written_bytes / 8) for name, run in runs.items()}
    assert numbers == {
        "naive": (3 * 10 + 2 * 25, 2 * 25 + 10),
        "flash": (2 * 10 + 3 * (2 * 10 + 2 * 5), (10 + 2 * 5) + 3 * (10 + 2 * 5)),
        "tiled": (10 + 3 * 2 * 10, 10 + 5),
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_inputs_are_left_alone_and_large_scores_do_not_overflow(algorithm):
    q, k, v = (40 * x for x in inputs(19, 6, torch.float32))
    before = [x.clone() for x in (q, k, v)]
    run = counted_attention(q, k, v, sram_bytes=4 * 60, algorithm=algorithm)
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), before, strict=True))
    assert (q @ k.T).max() > 1000
    expected = (q.double() @ k.double().T / 6**0.5).softmax(1) @ v.double()
    torch.testing.assert_close(run.out.double(), expected, atol=1e-2, rtol=1e-3)


def test_memory_counts_views_and_copies():
    memory = Memory()
    hbm = memory.allocate(5, 3, like=torch.empty(0))
    assert hbm.isnan().all()
    memory.store(hbm[1:3, :2], torch.tensor(7.0))
    assert (memory.read_bytes, memory.written_bytes) == (0, 16)
    tile = memory.load(hbm[1:2])
    assert (memory.read_bytes, memory.written_bytes) == (12, 16)
    tile.zero_()
    assert hbm[1, :2].tolist() == [7, 7]
    assert hbm.isnan().sum() == 11


def test_what_is_refused():
    x = torch.ones(5, 3)
    with pytest.raises(ValueError, match="must be one of naive, tiled, flash, got 'other'"):
        counted_attention(x, x, x, sram_bytes=100, algorithm="other")
    with pytest.raises(ValueError, match=r"one shape \(N, D\), got \(5, 3\), \(4, 3\), \(5, 3\)"):
        counted_attention(x, x[1:], x, sram_bytes=100, algorithm="tiled")
    with pytest.raises(ValueError, match="sram_bytes must hold 4 rows of 3 numbers, 48 bytes"):
        counted_attention(x, x, x, sram_bytes=47, algorithm="tiled")
