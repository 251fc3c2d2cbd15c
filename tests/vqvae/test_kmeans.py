"""Lloyd's iterations beside scikit-learn, and what they start from."""

import warnings

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch.testing import assert_close

from companion.vqvae.kmeans import kmeans, lloyd


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def peer(z, start, iterations):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(len(start), init=start.numpy(), n_init=1, tol=0, max_iter=iterations).fit(z)


@pytest.mark.parametrize("iterations", [1, 2, 100])
def test_iterations_beside_the_peer(iterations):
    z, start = draw(211, 3), draw(7, 3, seed=1)
    centres, counts = lloyd(z, start, iterations=iterations)
    assert_close(centres, torch.from_numpy(peer(z, start, iterations).cluster_centers_))
    assert counts.sum() == 211


def test_counts_are_those_behind_the_means():
    """By hand: 1 and 8 start, 4 belongs to 1; the means are 1 and 9, and 4 still does."""
    z = torch.tensor([[-2.0], [1], [4], [8], [10]])
    centres, counts = lloyd(z, torch.tensor([[1.0], [8.0], [99.0]]), iterations=1)
    assert centres.tolist() == [[1.0], [9.0], [99.0]]  # without a vector it stays
    assert counts.tolist() == [3, 2, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_start_without_repeats_and_a_result_in_float32(dtype):
    """As many centres as vectors: each is one of them, and none is drawn twice."""
    z = torch.arange(33).view(11, 3).to(dtype)
    state = torch.get_rng_state()
    centres, counts = kmeans(z, 11, generator=torch.Generator())
    assert torch.equal(state, torch.get_rng_state())
    assert centres.dtype == counts.dtype == torch.float32
    assert torch.equal(centres.sort(0).values, z.float())
    assert counts.tolist() == [1] * 11
    z[3] = torch.nan
    centres, counts = kmeans(z, 4, generator=torch.Generator())
    assert centres.isfinite().all()
    assert counts.sum() == 10


def test_the_means_of_means_move_no_more():
    z = draw(211, 3)
    reached = kmeans(z, 7, iterations=100, generator=torch.Generator())
    assert_close(lloyd(z, reached.centres, iterations=1), reached)


def test_more_centres_than_vectors():
    centres, counts = kmeans(torch.tensor([[1.0], [7.0]]), 5)
    assert set(centres[:, 0].tolist()) == {1.0, 7.0}
    assert sorted(counts.tolist()) == [0, 0, 0, 1, 1]


def test_what_is_no_batch_of_vectors():
    for bad in (torch.zeros(0, 3), torch.full((2, 3), torch.inf)):
        with pytest.raises(ValueError, match=r"vectors: expected a finite one, got [02] without"):
            kmeans(bad, 2)
    with pytest.raises(ValueError, match=r"vectors: expected shape \(B, D\), got \(2, 3, 4\)"):
        kmeans(torch.zeros(2, 3, 4), 2)
