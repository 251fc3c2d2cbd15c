"""DoRALinear by hand, against its equation, and against PEFT on whole language models."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from companion.lora import DoRALinear, add_lora, lora_layers, lora_parameters
from tests.lora.peft_oracle import (
    assert_same_gradient,
    gpt2,
    llama,
    peft_twin,
    randomise_,
    tokens,
)

TARGETS = ["q_proj", "v_proj", "down_proj"]


def adapted(*, inputs=7, outputs=5, rank=3, alpha=6.0, dtype=torch.float64, bias=True, **settings):
    base = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    return randomise_(DoRALinear(base, rank=rank, alpha=alpha, **settings))


def equation(layer):
    """W′ = m (W + s B A) / ‖W + s B A‖, row by row, with loops."""
    rows = []
    for o in range(layer.out_features):
        row = layer.base.weight[o] + layer.scale * layer.b_OR[o] @ layer.a_RI
        rows.append(layer.magnitude_O[o] * row / row.square().sum().sqrt())
    return torch.stack(rows)


def test_by_hand():
    base = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[3.0, 0.0]]))
    layer = DoRALinear(base, rank=1, alpha=2.0)
    assert layer.magnitude_O.item() == 3.0
    with torch.no_grad():
        layer.a_RI.copy_(torch.tensor([[0.0, 2.0]]))
        layer.b_OR.copy_(torch.tensor([[1.0]]))
        layer.magnitude_O.fill_(10.0)
    # W + 2·1·(0, 2) = (3, 4), of length 5; to length 10 it is (6, 8).
    assert layer(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).flatten().tolist() == [6.0, 8.0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (11,), (2, 3, 11), (0,)])
def test_is_the_equation(bias, batch, device):
    layer = adapted(bias=bias, scaling="alpha/sqrt(r)").to(device)
    x = torch.randn(*batch, 7, dtype=torch.float64, device=device)
    expected = F.linear(x, equation(layer), layer.base.bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.weight, equation(layer))
    # The rows of W′ are as long as the magnitudes say.
    torch.testing.assert_close(layer.weight.norm(dim=1), layer.magnitude_O.abs())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_new_layer_is_its_base_exactly(dtype, device):
    base = nn.Linear(7, 5, dtype=dtype, device=device)
    x = torch.randn(3, 11, 7, dtype=dtype, device=device)
    expected = base(x)
    layer = DoRALinear(base, rank=3, alpha=16.0, dropout=0.5)
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), expected)
    assert layer.magnitude_O.dtype == torch.promote_types(dtype, torch.float32)


def test_a_new_layer_is_its_base_under_autocast_too(device):
    base = nn.Linear(70, 50, device=device)
    x = torch.randn(11, 70, device=device)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        expected = base(x)
        layer = DoRALinear(base, rank=3, alpha=16.0)
        assert torch.equal(layer(x), expected)


def test_conv1d_of_transformers_is_transposed():
    torch.manual_seed(0)
    layer = randomise_(DoRALinear(Conv1D(5, 7), rank=3, alpha=6.0))
    x = torch.randn(2, 11, 7)
    dense_OI = layer.base.weight.T + 2 * layer.b_OR @ layer.a_RI
    dense_OI = layer.magnitude_O[:, None] * dense_OI / dense_OI.norm(dim=1, keepdim=True)
    torch.testing.assert_close(layer(x), x @ dense_OI.T + layer.base.bias)
    torch.testing.assert_close(layer.weight, dense_OI.T)


def test_same_logits_and_gradients_as_peft():
    base = llama()
    ours = add_lora(copy.deepcopy(base), targets=TARGETS, rank=4, alpha=10, variant="dora")
    randomise_(ours)
    theirs = peft_twin(base, ours, target_modules=TARGETS, r=4, lora_alpha=10, use_dora=True)
    ids = tokens(3, 7)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    for model in (ours, theirs):
        model(input_ids=ids, labels=ids).loss.backward()
    for name, layer in lora_layers(ours).items():
        assert layer.variant == "dora"
        twin = theirs.base_model.model.get_submodule(name)
        peers = (twin.lora_A, twin.lora_B, twin.lora_magnitude_vector)
        for parameter, peer in zip(layer.adapter_parameters(), peers, strict=True):
            assert_same_gradient(parameter, peer["default"].weight)


def test_same_logits_as_peft_on_conv1d():
    base, targets = gpt2(), ["c_attn"]
    ours = add_lora(copy.deepcopy(base), targets=targets, rank=4, alpha=10, variant="dora")
    randomise_(ours)
    settings = {"target_modules": targets, "r": 4, "lora_alpha": 10, "fan_in_fan_out": True}
    theirs = peft_twin(base, ours, **settings, use_dora=True)
    ids = tokens(3, 7)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_with_the_norm_as_a_constant(bias):
    layer = adapted(bias=bias)
    x = torch.randn(2, 11, 7, dtype=torch.float64, requires_grad=True)
    layer(x).tanh().square().sum().backward()
    got = [p.grad.clone() for p in (x, *layer.adapter_parameters())]
    leaves = [p.detach().clone().requires_grad_() for p in (x, *layer.adapter_parameters())]
    x2, a, b, magnitude = leaves
    direction = layer.base.weight + layer.scale * b @ a
    dense = magnitude[:, None] / direction.detach().norm(dim=1, keepdim=True) * direction
    F.linear(x2, dense, layer.base.bias).tanh().square().sum().backward()
    for ours, leaf in zip(got, leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad)


def test_the_norm_follows_the_factors():
    layer = adapted()
    before = layer.direction_norm()
    with torch.no_grad():
        layer.b_OR *= 2
    expected = (layer.base.weight + 2 * layer.b_OR @ layer.a_RI).norm(dim=1)
    torch.testing.assert_close(layer.direction_norm(), expected)
    assert not torch.allclose(before, expected)
    assert not layer.direction_norm().requires_grad


def test_a_row_of_zeros_gives_the_bias_and_no_nan():
    base = nn.Linear(7, 5)
    with torch.no_grad():
        base.weight[2] = 0
    layer = DoRALinear(base, rank=3, alpha=6.0)
    y = layer(torch.randn(11, 7))
    assert torch.equal(y[:, 2], base.bias[2].expand(11))
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.adapter_parameters())
    assert layer.weight.isfinite().all()


def test_dropout_leaves_the_bases_branch_alone():
    layer = DoRALinear(nn.Linear(7, 5), rank=3, alpha=6.0, dropout=0.9).train()
    with torch.no_grad():
        layer.magnitude_O *= 2
    x = torch.randn(11, 7)
    # With B = 0 nothing is dropped: y = 2 (x Wᵀ) + bias.
    torch.testing.assert_close(layer(x), 2 * F.linear(x, layer.base.weight) + layer.base.bias)


def test_what_is_trained():
    layer = adapted()
    trained = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == {"a_RI", "b_OR", "magnitude_O"}
    assert sum(p.numel() for p in lora_parameters(layer)) == 3 * (7 + 5) + 5
    assert layer.delta().shape == (5, 7)
    torch.testing.assert_close(layer.delta(), 2 * layer.b_OR @ layer.a_RI)


def test_compiled_in_one_graph(device):
    layer = adapted().to(device)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(11, 7, dtype=torch.float64, device=device)
    torch.testing.assert_close(compiled(x), layer(x))


def test_refuses_as_lora_does():
    with pytest.raises(ValueError, match=r"rank must be in \[1, 5\], got 6"):
        DoRALinear(nn.Linear(7, 5), rank=6, alpha=1.0)
    with pytest.raises(TypeError, match=r"base: expected nn\.Linear, Conv1D or Quant"):
        DoRALinear(nn.Embedding(7, 5), rank=2, alpha=1.0)
