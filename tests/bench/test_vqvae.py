"""What the bench of chapter 03 compares, small: both sides agree, and a difference is seen."""

import pytest
import torch

from companion.bench import vqvae


@pytest.mark.parametrize("backward", [False, True])
def test_both_sides_agree_and_a_difference_is_seen(backward):
    work = vqvae.learning(53, 7, 3, "cpu", backward=backward)
    ours, theirs = work.ours(), work.theirs()
    assert work.equal(ours, theirs)
    codes = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert (ours[0] - codes).abs().max() > 0.01  # the codebook has learnt
    for number, value in enumerate(theirs):
        other = [*theirs[:number], value + value.new_tensor(1) / 1000, *theirs[number + 1 :]]
        if value.is_floating_point():
            assert not work.equal(ours, tuple(other))


def test_nearest_codes_agree_and_a_difference_is_seen():
    work = vqvae.nearest(53, 7, 3, "cpu")
    ours, theirs = work.ours(), work.theirs()
    assert work.equal(ours, theirs)
    theirs[0] = (theirs[0] + 1) % 7
    assert not work.equal(ours, theirs)


def test_the_bars_are_those_of_the_chapter(monkeypatch):
    assert vqvae.LEARNING == (4096, 1024, 64)
    assert (vqvae.CUDA[1:], vqvae.CUDA_BAR) == ((16_384, 256), 1.5)
    monkeypatch.setattr(vqvae, "LEARNING", (13, 5, 3))
    monkeypatch.setattr(vqvae, "MANY", (17, 5, 2))
    bars = {work.name.partition(" (")[0]: work.bar for work in vqvae.workloads("cpu")}
    assert bars == {
        "EMAVectorQuantizer N=13, K=5, D=3, forward, learning": 2,
        "EMAVectorQuantizer N=13, K=5, D=3, forward + backward, learning": 2,
        "nearest_code N=13, K=5, D=3": None,
        "nearest_code N=17, K=5, D=2": None,
    }
