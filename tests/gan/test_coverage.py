"""Covered modes and good samples, by hand."""

import pytest
import torch

from companion.gan.coverage import mode_coverage

CENTERS = [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]]
# (2.5, 0) is nearest to the second centre, though within 3 of the first as well.
SAMPLES = [[-1.0, 0.0], [0.5, 0.5], [4.0, 0.75], [2.0, 2.5], [2.5, 0.0], [4.0, 1.0], [9.0, 12.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("radius", "expected"), [(0, (0, 0)), (0.75, (2, 2 / 7)), (1, (2, 4 / 7)), (3, (4, 1))]
)
def test_by_hand(radius, expected, dtype, device):
    samples = torch.tensor(SAMPLES, dtype=dtype, device=device).mT.contiguous().mT
    centers = torch.tensor(CENTERS, dtype=dtype, device=device)
    result = mode_coverage(samples, centers, radius=radius)
    assert result == expected
    assert [type(value) for value in result] == [int, float]


def test_a_sample_counts_for_its_nearest_centre_alone_and_the_first_of_two():
    centers = torch.tensor([[0.0], [1.0], [2.0]])
    assert mode_coverage(torch.tensor([[0.9]]), centers, radius=5) == (1, 1)
    assert mode_coverage(torch.tensor([[0.5], [0.2]]), centers, radius=0.5) == (1, 1)
    # Far from 0, where |x|² + |c|² − 2⟨x, c⟩ has no digits left.
    far = centers.double() + 1e9
    assert mode_coverage(far.repeat(9, 1)[1:] + 0.25, far, radius=0.25) == (3, 1)
    assert mode_coverage(far[1:] + 0.25, far, radius=0.125) == (0, 0)


@pytest.mark.parametrize(("least_share", "modes"), [(0.1, 4), (0.2, 2), (0.4, 1), (0.5, 0)])
def test_a_mode_needs_its_share_of_all_samples(least_share, modes):
    """At radius 3 the centres have 2, 3, 1 and 1 of the seven samples."""
    samples, centers = torch.tensor(SAMPLES), torch.tensor(CENTERS)
    result = mode_coverage(samples, centers, radius=3, least_share=least_share)
    assert result == (modes, 1)


def test_what_is_refused():
    X = torch.zeros(3, 2)
    for samples, centers, radius, message in (
        (X[:0], X, 1, r"at least one sample and one centre, got \(0, 2\) and \(3, 2\)"),
        (X, X[0], 1, r"samples \(N, D\) and centers \(K, D\), got \(3, 2\) and \(2,\)"),
        (X + torch.nan, X, 1, "samples: expected finite numbers"),
        (X, X, -1, "radius must be a finite number of at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            mode_coverage(samples, centers, radius=radius)
    with pytest.raises(ValueError, match=r"least_share must be a finite number in \[0, 1\], got 2"):
        mode_coverage(X, X, radius=1, least_share=2)
