"""Three ranks with uneven batches hold one codebook, that of one process with the whole batch."""

import pickle

import pytest
import torch
from torch.testing import assert_close

from companion.processes.launching import launch
from companion.vqvae.kmeans import kmeans
from tests.vqvae import ranks_codebook as ranks


@pytest.fixture(scope="module")
def results():
    return [pickle.loads(result) for result in launch(ranks.cases, 3, timeout_s=120)]


def whole(name):
    return [torch.cat(parts) for parts in ranks.batches(name)]


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("name", ranks.SIZES)
def test_the_codebook_of_the_whole_batch_on_every_rank(results, name, start):
    """Rank 0's generator makes every draw, as if it had the whole batch."""
    alone = list(ranks.states(ranks.quantizer(start, 30), whole(name)))
    revived = 0
    for *others, first, expected in zip(*(r[name, start] for r in results), alone, strict=True):
        for buffer in ("codebook", "cluster_size", "embed_avg", "started"):
            assert all(torch.equal(first[buffer], other[buffer]) for other in others)
            # Sums of 22 numbers up to 4, in another order: 22 · 4 · 2⁻²⁴ · 2, over N ≥ 0.3.
            assert_close(first[buffer], expected[buffer], rtol=1e-5, atol=5e-5)
        revived += (first["cluster_size"] == ranks.OPTIONS["revive_below"]).sum()
    assert revived > 1


def test_losses_are_each_ranks_own(results):
    for rank, result in enumerate(results):
        for step, sizes in enumerate(ranks.SIZES["empty"]):
            loss = result["empty", False][step]["loss"]
            assert (loss == 0) == (sizes[rank] == 0)


def test_ranks_whose_generators_differ(results):
    """PyTorch's own, seeded apart; so is the one that ``kmeans`` is given."""
    for first, *others in zip(*(result["global"] for result in results), strict=True):
        for buffer in ("codebook", "cluster_size", "embed_avg"):
            assert all(torch.equal(first[buffer], other[buffer]) for other in others)
    expected = kmeans(whole("uneven")[0], 3, generator=torch.Generator().manual_seed(0))
    for result in results:
        assert torch.equal(result["kmeans"].centres, results[0]["kmeans"].centres)
        assert_close(result["kmeans"].centres, expected.centres)
        assert torch.equal(result["kmeans"].counts, expected.counts)
