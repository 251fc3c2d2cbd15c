"""autocast_report beside what hooks see in the model, and beside PyTorch's own lists."""

import pytest
import torch
from torch import nn

from companion.precision.autocast import CastOperation, autocast_report

SHORT, LONG = torch.bfloat16, torch.float32


class Model(nn.Module):
    """Two linear layers, a layer norm and a softmax; the second input is optional."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 5)
        self.norm, self.softmax = nn.LayerNorm(5), nn.Softmax(dim=-1)

    def forward(self, x, shift=None):
        x = self.norm(self.second(self.first(x)))
        return {"out": self.softmax(x if shift is None else x + shift)}


def by_name(report):
    return {row.name: row for row in report if row.name != "_to_copy"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_layer_gives_what_its_hook_sees(dtype):
    model, seen = Model(), {}
    for name, layer in model.named_children():
        layer.register_forward_hook(
            lambda layer, args, out, name=name: seen.update({name: out.dtype})
        )
    rows = by_name(autocast_report(model, torch.randn(2, 3), dtype=dtype))
    assert rows.keys() == {"addmm", "native_layer_norm", "_softmax"}
    assert rows["addmm"] == ("addmm", (dtype,), seen["second"], 2)
    assert rows["native_layer_norm"].output == seen["norm"]
    assert rows["_softmax"].output == seen["softmax"]
    assert seen["second"] == dtype


def test_what_a_cpu_computes_by_hand():
    """In bfloat16 too: the layer norm and the softmax. Casts: x, two weights, two biases."""
    report = autocast_report(Model(), torch.randn(2, 3))
    assert list(report) == [
        CastOperation("_to_copy", (LONG,), SHORT, 5),
        CastOperation("addmm", (SHORT,), SHORT, 2),
        CastOperation("native_layer_norm", (SHORT, LONG), SHORT, 1),
        CastOperation("_softmax", (SHORT,), SHORT, 1),
    ]
    lines = str(report).splitlines()
    assert lines[0].split() == ["operation", "takes", "gives", "calls"]
    assert lines[3].split() == ["native_layer_norm", "bfloat16,", "float32", "bfloat16", "1"]


@pytest.mark.gpu
def test_cuda_computes_layer_norm_and_softmax_in_float32():
    rows = by_name(autocast_report(Model().cuda(), torch.randn(2, 3, device="cuda")))
    assert rows["addmm"].output == SHORT
    assert rows["native_layer_norm"].output == rows["_softmax"].output == LONG


def test_an_operation_on_the_list_of_float32_is_cast_up():
    class Loss(nn.Module):
        def forward(self, x, y):
            return nn.functional.mse_loss(x, y)

    report = autocast_report(Loss(), (torch.ones(3, dtype=SHORT), torch.zeros(3, dtype=SHORT)))
    assert by_name(report)["mse_loss"] == ("mse_loss", (LONG,), LONG, 1)
    assert CastOperation("_to_copy", (SHORT,), LONG, 2) in report


def test_the_backward_pass_follows_the_forward_pass():
    forward = autocast_report(Model(), torch.randn(2, 3))
    both = autocast_report(Model(), torch.randn(2, 3), backward=True)
    names = [row.name for row in both]
    assert [row for row in both if row.name in by_name(forward)][:3] == list(forward)[1:]
    assert names.index("_softmax_backward_data") < names.index("native_layer_norm_backward")
    # Per linear layer a gradient of the weight, and of the second one's input.
    assert by_name(both)["mm"] == ("mm", (SHORT,), SHORT, 3)
    # Gradients reach the 32-bit weights and biases in 32 bits.
    assert CastOperation("_to_copy", (SHORT,), LONG, 4) in both


def test_arguments_as_a_tensor_a_sequence_or_a_mapping():
    x, shift = torch.randn(2, 3), torch.randn(5)
    plain = autocast_report(Model(), x)
    assert autocast_report(Model(), [x]) == autocast_report(Model(), {"x": x}) == plain
    shifted = autocast_report(Model(), (x, shift))
    assert shifted == autocast_report(Model(), {"x": x, "shift": shift})
    assert by_name(shifted)["add"] == ("add", (SHORT, LONG), LONG, 1)


def test_it_leaves_everything_as_it_was():
    model, x = Model(), torch.randn(2, 3)
    model.norm.weight.grad = torch.full((5,), 7.0)
    autocast_report(model, x, backward=True)
    with pytest.raises(RuntimeError, match="shape"):
        autocast_report(model, torch.randn(2, 4))
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    assert model.norm.weight.grad.tolist() == [7.0] * 5
    assert model.first.weight.grad is None
    assert model(x)["out"].dtype == LONG
    report = autocast_report(model, x)
    model(x)  # outside: not recorded
    assert by_name(report)["addmm"].count == 2


@pytest.mark.parametrize(
    ("model", "options", "error", "match"),
    [
        (Model(), {"dtype": torch.float32}, ValueError, "torch.float16, got torch.float32"),
        (lambda x: x, {}, TypeError, "model: expected nn.Module, got"),
        (nn.Softmax(dim=-1), {"backward": True}, ValueError, "got Tensor and 0 parameters"),
        (Model().requires_grad_(False), {"backward": True}, ValueError, "got dict and 0 param"),
    ],
)  # fmt: skip
def test_bad_arguments(model, options, error, match):
    with pytest.raises(error, match=match):
        autocast_report(model, torch.randn(2, 3), **options)
