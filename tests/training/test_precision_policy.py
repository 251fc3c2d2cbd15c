"""The recipes' precision: what is cast, how a scaled step goes, and what a checkpoint keeps."""

import math

import pytest
import torch
from torch import nn

from companion.training import fit
from companion.training.checkpoints import read_checkpoint
from companion.training.precision import DTYPE, PrecisionPolicy, wide, without_autocast

NAMES = ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize("precision", NAMES)
def test_forward_is_in_its_dtype_and_the_gradient_in_float32(precision, device):
    layer = nn.Linear(3, 5, device=device)
    policy = PrecisionPolicy(precision, device)
    with policy.autocast():
        y = layer(torch.ones(2, 3, device=device))
    assert y.dtype == DTYPE[precision]
    policy.backward(y.sum())
    assert layer.weight.grad.dtype == torch.float32
    assert not torch.is_autocast_enabled(device)


@pytest.mark.parametrize(("precision", "scale"), [("fp32", 1.0), ("bf16", 1.0), ("fp16", 4.0)])
def test_steps_by_hand(precision, scale):
    """w ← w − ¼ · 2w; an overflow leaves w where it was and halves s."""
    weight = nn.Parameter(torch.tensor(3.0))
    sgd = torch.optim.SGD([weight], lr=0.25)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    policy = PrecisionPolicy(precision, "cpu", scaler=scaler if precision == "fp16" else None)
    for expected in (1.5, 0.75):
        sgd.zero_grad()
        policy.backward(weight**2)
        assert weight.grad.item() == 4 * expected * scale
        policy.step(sgd)
        policy.update()
        assert weight.item() == expected
    if precision == "fp16":
        assert scaler.get_scale() == 8.0  # after two steps in a row
        weight.grad.fill_(math.inf)
        policy.step(sgd)
        policy.update()
        assert (weight.item(), scaler.get_scale()) == (0.75, 4.0)


def test_wide_is_at_least_float32():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert wide(torch.ones(2, dtype=dtype)).dtype == torch.float32
    x = torch.ones(2, dtype=torch.float64)
    assert wide(x) is x


def test_backward_passes_its_options_on():
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    PrecisionPolicy("fp16", "cpu").backward((first * second).sum(), inputs=[first])
    assert first.grad.tolist() == [2.0**16, 2.0**16]
    assert second.grad is None


def test_scaler_is_torchs_unless_another_is_handed_in():
    own = torch.amp.GradScaler("cpu", init_scale=2.0)
    assert PrecisionPolicy("fp16", "cpu", scaler=own).scaler is own
    default = PrecisionPolicy("fp16", "cpu").scaler
    assert type(default) is torch.amp.GradScaler
    assert default.get_scale() == 2.0**16
    assert [PrecisionPolicy(name, "cpu").scaler for name in ("fp32", "bf16")] == [None, None]


def test_checkpoint_holds_the_scale_and_a_resumed_run_goes_on_with_it(tmp_path):
    """From 2²² the first seven steps overflow; a scaler that starts anew would skip seven more."""

    def run(name: str, steps: int, precision: str = "fp16") -> list[float]:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, 1.0)
        sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=4)
        policy = PrecisionPolicy(precision, "cpu", scaler=scaler if precision == "fp16" else None)

        def step(_: int) -> torch.Tensor:
            with policy.autocast():
                y = layer(torch.ones(1, 1))
            sgd.zero_grad()
            policy.backward(y.sum())
            policy.step(sgd)
            policy.update()
            return layer.weight.sum()

        state = {"layer": layer, "sgd": sgd} | policy.state
        fitted = fit(step, steps=steps, state=state, checkpoint=tmp_path / name, progress=False)
        return fitted["loss"]

    whole = run("whole", 13)
    assert (whole[6], whole[7]) == (1.0, pytest.approx(0.9))
    run("parts", 9)
    assert run("parts", 13) == whole
    assert read_checkpoint(tmp_path / "parts")["state"]["scaler"]["scale"] == 2.0**15

    run("old", 2, "fp32")  # no trace of a scaler, as in the checkpoints of earlier versions
    assert read_checkpoint(tmp_path / "old")["state"].keys() == {"layer", "sgd"}
    run("old", 3, "bf16")
    with pytest.raises(ValueError, match=r"expected the names .*'scaler'.* got \['layer', 'sgd'\]"):
        run("old", 4)


def test_update_before_a_step_is_refused_where_it_has_a_meaning():
    for precision in ("fp32", "bf16"):
        PrecisionPolicy(precision, "cpu").update()
    policy = PrecisionPolicy("fp16", "cpu")
    policy.backward(torch.ones(1, requires_grad=True).sum())
    with pytest.raises(AssertionError, match="No inf checks"):
        policy.update()


def test_what_is_refused():
    match = r"precision must be one of \('fp32', 'bf16', 'fp16'\), got 'fp8'"
    with pytest.raises(ValueError, match=match):
        PrecisionPolicy("fp8", "cpu")
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match="scaler for \"fp16\" alone, got GradScaler for 'bf16'"):
        PrecisionPolicy("bf16", "cpu", scaler=scaler)


def test_without_autocast(device):
    x = torch.ones(2, 2, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        with without_autocast(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    with without_autocast(torch.ones(1, device="meta")):
        pass
