"""What the bench of chapter 01 compares, small: both sides agree, and a difference is seen."""

import pytest

from companion.bench import gan


@pytest.mark.parametrize(("n", "d"), [(23, 5), (5, 11)])
def test_both_sides_agree_and_a_difference_is_seen(n, d):
    work = gan.frechet(*gan._samples(n, d, "cpu"))
    assert work.equal(work.ours(), work.theirs())
    assert not work.equal(work.ours(), work.theirs() * (1 + 1e-5))
    work = gan.manifolds(*gan._samples(23, d, "cpu"))
    ours, theirs = work.ours(), work.theirs()
    assert work.equal(ours, theirs)
    assert 0 < theirs.recall < 1
    assert not work.equal(ours, theirs._replace(recall=theirs.recall + 1 / 23))


def test_the_bars_are_those_of_the_chapter(monkeypatch):
    monkeypatch.setattr(gan, "MANIFOLD", (13, 3))
    assert gan.WIDTH == 1024
    monkeypatch.setattr(gan, "WIDTH", 7)
    bars = {work.name: work.bar for work in gan.workloads("cpu")}
    assert bars == {
        "frechet_distance N=2048, M=2048, D=7": 3,
        "frechet_distance N=250, M=250, D=7": 50,
        "precision_recall N=13, M=13, D=3, k=3": None,
    }
