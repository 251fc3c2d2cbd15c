"""What the bench of chapter 10 compares: both sides do the same, the bars are the chapter's."""

from itertools import islice

import psutil
import pytest

from companion.bench import processes
from companion.processes.study.workloads import matmul

LAUNCH = 3  # its place among the workloads


@pytest.fixture
def _small(monkeypatch):
    for name, value in {"COUNTED": 1234, "WIDTH": 3, "PRODUCTS": 2}.items():
        monkeypatch.setattr(processes, name, value)
    monkeypatch.setattr(processes, "HANDED_OVER_BYTES", 1_000_003)


@pytest.fixture
def _no_child_left():
    before = children()
    yield
    assert children() <= before


def children() -> set[psutil.Process]:
    """Ours; multiprocessing's own resource tracker stays until we end."""
    return {
        child
        for child in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    }


@pytest.mark.usefixtures("_small", "_no_child_left")
def test_both_sides_return_what_is_right():
    counted, product = [1234, 1234], [matmul(3, 2)] * 2
    by_hand = [counted, counted, product, None, (7, 9)]
    works = processes.workloads("cpu")
    for place, (work, expected) in enumerate(zip(works, by_hand, strict=True)):
        if place != LAUNCH:  # it takes seconds: below
            assert work.ours() == expected == work.theirs(), work.name
            assert work.equal(expected, expected)
            assert not work.equal(expected, expected[:1] * 3)


@pytest.mark.slow
@pytest.mark.usefixtures("_small", "_no_child_left")
def test_ranks_of_both_sides_find_the_same_sum():
    (work,) = islice(processes.workloads("cpu"), LAUNCH, LAUNCH + 1)
    assert work.ours() == work.theirs() == [[0.0 + 1 + 2 + 3, 4.0]] * 4


@pytest.mark.usefixtures("_small", "_no_child_left")
def test_the_bars_are_those_of_the_chapter():
    bars = [(w.name, w.bar, w.ceiling, w.limit_s) for w in processes.workloads("cpu")]
    assert bars == [
        ("plain Python on 2 threads", None, 1.1, None),
        ("plain Python on 2 processes", 1.7, None, None),
        ("matmul on 2 threads", 1.6, None, None),
        ("launch 4 ranks, one all_reduce, and back", None, None, 6.0),
        ("SharedArray of 100 MB through a queue", 20.0, None, None),
    ]
    assert processes.RANKS == 4


def test_100_mb_are_100_mb():
    assert processes.HANDED_OVER_BYTES == 100 * 10**6


def test_of_a_gpu_there_is_nothing_to_measure():
    assert list(processes.workloads("cuda")) == []
