"""What the bench of chapter 08 compares, small: both sides do the same, a difference is seen."""

import pytest
import torch

from companion.bench import precision

SHAPES = [(3, 5), (7,)]
EACH = {
    "scaler": lambda: precision.scaler_step("cpu", SHAPES, bar=None),
    "rounding": lambda: precision.rounding("E5M2", torch.randn(1001)),
    "TF32": lambda: precision.rounding("TF32", torch.randn(1001)),
    "masters": lambda: precision.master_step("cpu", SHAPES),
}


@pytest.mark.parametrize("name", EACH)
def test_both_sides_agree_call_after_call_and_a_difference_is_seen(name):
    work = EACH[name]()
    for _ in range(3):
        assert work.equal(work.ours(), work.theirs())
    ours, theirs = work.ours(), work.theirs()
    with torch.no_grad():
        (ours if isinstance(ours, torch.Tensor) else ours[-1])[0] += 1
    assert not work.equal(ours, theirs)


def test_the_scalers_gradients_and_weights_stay_what_they_are():
    work = EACH["scaler"]()
    before = [tensor.detach().clone() for tensor in work.ours()]
    assert before[0].any()
    assert all(torch.equal(a, b) for a, b in zip(work.ours(), before, strict=True))


def test_the_masters_move():
    work = EACH["masters"]()
    before = work.theirs()[0].detach().clone()
    assert not torch.equal(work.theirs()[0], before)


def test_the_bars_are_those_of_the_chapter(monkeypatch):
    monkeypatch.setattr(precision, "ROUNDED", 1000)
    works = list(precision.workloads("cpu"))
    assert [(work.name.split(",")[0], work.bar) for work in works] == [
        ("unscale_ + step + update", 0.84),
        ("round 1e+03 float32 numbers to BF16", 0.34),
        *((f"round 1e+03 float32 numbers to {name}", None) for name in ("FP16", "TF32")),
        *((f"round 1e+03 float32 numbers to {name}", None) for name in ("E4M3", "E5M2")),
        ("MasterWeights(AdamW) step", None),
    ]
    assert "50 tensors, 1M numbers" in works[0].name


def test_ten_million_numbers_are_ten_million():
    assert precision.ROUNDED == 10**7
