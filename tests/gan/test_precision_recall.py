"""Precision and recall by hand and by loops over exact integers, where ties abound."""

import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.gan.precision_recall import precision_recall

MODULE = importlib.import_module("companion.gan.precision_recall")  # the package has the function


def lattice(n: int, d: int, *, seed: int, span: int = 5) -> torch.Tensor:
    return torch.randint(span, (n, d), generator=torch.Generator().manual_seed(seed))


def by_loops(real: torch.Tensor, fake: torch.Tensor, k: int) -> tuple[float, float]:
    def squared(a: list[int], b: list[int]) -> int:
        return sum((s - t) ** 2 for s, t in zip(a, b, strict=True))

    def share(inner: list[list[int]], outer: list[list[int]]) -> float:
        inside = set()
        for i, a in enumerate(outer):
            radius = sorted(squared(a, b) for j, b in enumerate(outer) if j != i)[k - 1]
            inside |= {j for j, x in enumerate(inner) if squared(a, x) <= radius}
        return len(inside) / len(inner)

    real, fake = real.tolist(), fake.tolist()
    return share(fake, real), share(real, fake)


def test_on_the_line_by_hand(device):
    real = torch.tensor([0.0, 1.0, 2.0, 10.0], device=device)
    fake = torch.tensor([1.5, 4.5, 19.0, 19.5, 40.0], device=device)
    # Radii with k = 1: 1, 1, 1, 8 and 3, 3, ½, ½, 20½. With 2: 2, 1, 2, 9 and 17½, 14½, …
    assert precision_recall(real, fake, neighbours=1) == (2 / 5, 3 / 4)
    assert precision_recall(real, fake, neighbours=2) == (3 / 5, 1)  # 19 is on the edge
    assert precision_recall(fake, real, neighbours=1) == (3 / 4, 2 / 5)
    assert precision_recall(real, fake) == precision_recall(real, fake, neighbours=3) == (4 / 5, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("block", [1, 40, 2**22])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_by_loops(k, block, dtype, device, monkeypatch):
    monkeypatch.setattr(MODULE, "BLOCK_NUMBERS", block)
    real, fake = lattice(13, 6, seed=0), lattice(7, 6, seed=1)
    expected = by_loops(real, fake, k)
    assert k == 4 or all(0 < share < 1 for share in expected)
    real, fake = (points.to(device, dtype).reshape(-1, 2, 3) for points in (real, fake))
    real = real.transpose(0, 2).contiguous().transpose(0, 2)
    assert precision_recall(real, fake, neighbours=k) == expected


@given(seed=st.integers(0, 2**31), k=st.integers(1, 4), offset=st.sampled_from([0, 10**9]))
def test_ties_and_copies_are_exact_also_far_from_0(seed, k, offset):
    real, fake = lattice(7, 2, seed=seed, span=3), lattice(5, 2, seed=seed + 1, span=3)
    result = precision_recall(real.double() + offset, fake.double() + offset, neighbours=k)
    assert result == by_loops(real, fake, k)


def test_copies_make_balls_of_radius_0():
    copies = torch.full((4, 3), 0.1)
    near = copies.nextafter(torch.ones(()))
    assert precision_recall(copies, copies.clone()) == (1, 1)
    assert precision_recall(copies, near) == (0, 0)
    assert precision_recall(torch.arange(4.0), torch.full((4,), 0.5)) == (1, 0)  # collapsed


def test_what_is_refused():
    X = torch.zeros(4, 2)
    for real, fake, k, message in (
        (X[:3], X, 3, "real: expected more than 3 samples for 3 neighbours, got 3"),
        (X, X[:1], 1, "fake: expected more than 1 samples for 1 neighbours, got 1"),
        (X, X.reshape(2, 4), 1, r"samples of one shape, got \(4, 2\) and \(2, 4\)"),
        (X[:, :0], X[:, :0], 1, "at least one number a sample"),
        (X, X, 0, "neighbours must be at least 1, got 0"),
        (X, X + torch.inf, 3, "fake: expected finite numbers"),
        (1e200 * torch.eye(4).double(), torch.eye(4), 3, "that float64 holds, got an overflow"),
    ):
        with pytest.raises(ValueError, match=message):
            precision_recall(real, fake, neighbours=k)
