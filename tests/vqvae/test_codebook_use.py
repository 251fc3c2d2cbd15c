"""Perplexity and usage: by hand, and by scipy's entropy."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.vqvae.codebook_use import perplexity, usage


def test_by_hand():
    indices = torch.tensor([[6, 2, 2, 6], [2, 2, 2, 2]], dtype=torch.int32).T
    # Shares 1/4 and 3/4: 4^(1/4) · (4/3)^(3/4)
    assert perplexity(indices, 7).item() == pytest.approx(4**0.25 * (4 / 3) ** 0.75, rel=1e-14)
    assert usage(indices, 7).item() == pytest.approx(2 / 7, rel=1e-15)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(13, 17))
def test_by_scipy(drawn, num_codes):
    indices = torch.tensor(drawn)
    counts = np.bincount(drawn)
    found, used = perplexity(indices, num_codes), usage(indices, num_codes)
    assert found.shape == used.shape == ()
    assert found.dtype == used.dtype == torch.float64
    assert found.item() == pytest.approx(np.exp(scipy.stats.entropy(counts)), rel=1e-13)
    assert used.item() == pytest.approx(len(set(drawn)) / num_codes, rel=1e-15)
    assert 1 <= found <= num_codes


@pytest.mark.parametrize("num_codes", [1, 3, 5, 9, 11, 13, 1000])
def test_the_ends_of_the_range(num_codes):
    """Never out of it by rounding, which would make it 5 + 9e-16 for 5 codes."""
    even = torch.arange(num_codes).repeat(3)
    assert 1 <= perplexity(even, num_codes) <= num_codes
    assert perplexity(even, num_codes).item() == pytest.approx(num_codes, rel=1e-13)
    assert usage(even, num_codes) == 1
    assert perplexity(torch.full((5,), num_codes - 1), num_codes) == 1


REFUSED = [
    ([], 3, ValueError, "indices: expected at least one, got none"),
    ([0, 3], 3, ValueError, r"indices must be in \[0, 2\], got 0 to 3"),
    ([-1, 1], 3, ValueError, r"indices must be in \[0, 2\], got -1 to 1"),
    ([0], 0, ValueError, "num_codes must be at least 1, got 0"),
    ([0], 2.0, TypeError, "num_codes: expected an integer, got 2.0"),
]


@pytest.mark.parametrize("function", [perplexity, usage])
def test_refused(function):
    for indices, num_codes, error, message in REFUSED:
        with pytest.raises(error, match=message):
            function(torch.tensor(indices, dtype=torch.int64), num_codes)
    with pytest.raises(TypeError, match="indices: expected a tensor of integers, got Tensor"):
        function(torch.tensor([0.0, 1.0]), 3)
