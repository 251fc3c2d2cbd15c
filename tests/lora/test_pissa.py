"""PiSSA against the singular value decomposition and against PEFT."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from companion.lora import (
    DoRALinear,
    LoRALinear,
    QuantizedLinear,
    add_lora,
    init_pissa_,
    lora_layers,
    merge_lora_,
    remove_lora_,
    unmerge_lora_,
)
from tests.lora.peft_oracle import gpt2, llama, peft_twin, randomise_, tokens


def weight_with_values(values, outputs=7, inputs=5):
    """A matrix with the given singular values, U and V from random orthogonal matrices."""
    generator = torch.Generator().manual_seed(0)
    u, v = (
        torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
        for n in (outputs, inputs)
    )
    return u[:, : len(values)] @ torch.diag(torch.tensor(values).double()) @ v[: len(values)]


def linear(weight, dtype=torch.float64):
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


@pytest.mark.parametrize("scaling", ["alpha/r", "alpha/sqrt(r)"])
@pytest.mark.parametrize("alpha", [2.0, 7.0])
def test_known_singular_values_are_divided_between_base_and_adapter(scaling, alpha, device):
    weight = weight_with_values([9.0, 5.0, 3.0, 2.0, 1.0])
    base = linear(weight).to(device)
    layer = LoRALinear(base, rank=2, alpha=alpha, scaling=scaling)
    x = torch.randn(11, 5, dtype=torch.float64, device=device)
    expected = layer(x)
    init_pissa_(layer)
    torch.testing.assert_close(layer(x), expected)
    values = torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0], dtype=torch.float64, device=device)
    zeros = torch.zeros(3, dtype=torch.float64, device=device)
    torch.testing.assert_close(torch.linalg.svdvals(layer.delta()), torch.cat([values[:2], zeros]))
    torch.testing.assert_close(
        torch.linalg.svdvals(layer.base.weight), torch.cat([values[2:], zeros[:2]])
    )
    # Both factors carry the same share: A Aᵀ = Bᵀ B = S_R / s, which is diagonal.
    share = torch.diag(values[:2] / layer.scale)
    torch.testing.assert_close(layer.a_RI @ layer.a_RI.T, share)
    torch.testing.assert_close(layer.b_OR.T @ layer.b_OR, share)
    assert layer.init == layer.variant == "pissa"


@pytest.mark.parametrize("rslora", [False, True])
def test_same_model_as_pefts(rslora):
    base, targets = llama(), ["q_proj", "down_proj"]
    scaling = {"use_rslora": rslora, "init_lora_weights": "pissa"}
    ours = add_lora(copy.deepcopy(base), targets=targets, rank=4, alpha=10)
    if rslora:
        for layer in lora_layers(ours).values():
            layer.scaling = "alpha/sqrt(r)"
    for layer in lora_layers(ours).values():
        init_pissa_(layer)
    initial = copy.deepcopy(ours)
    randomise_(ours)
    theirs = peft_twin(base, ours, target_modules=targets, r=4, lora_alpha=10, **scaling)
    ids = tokens(3, 7)
    for name, layer in lora_layers(initial).items():
        twin = theirs.base_model.model.get_submodule(name)
        torch.testing.assert_close(layer.base.weight, twin.base_layer.weight, atol=1e-6, rtol=1e-5)
    # Trained, on the residual; untrained, the model that we began with.
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(initial(ids).logits, base(ids).logits, atol=1e-5, rtol=1e-5)
    # Up to the sign of each direction, which no decomposition fixes, the factors agree too.
    fresh = peft_twin(base, nn.Module(), target_modules=targets, r=4, lora_alpha=10, **scaling)
    for name, layer in lora_layers(initial).items():
        twin = fresh.base_model.model.get_submodule(name)
        torch.testing.assert_close(
            layer.a_RI.abs(), twin.lora_A["default"].weight.abs(), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            layer.delta(), twin.get_delta_weight("default"), atol=1e-6, rtol=1e-4
        )


def test_same_residual_as_peft_on_conv1d():
    base = gpt2()
    ours = add_lora(copy.deepcopy(base), targets=["c_attn"], rank=4, alpha=10, variant="pissa")
    settings = {"r": 4, "lora_alpha": 10, "fan_in_fan_out": True, "init_lora_weights": "pissa"}
    theirs = peft_twin(base, nn.Module(), target_modules=["c_attn"], **settings)
    for name, layer in lora_layers(ours).items():
        twin = theirs.base_model.model.get_submodule(name)
        assert isinstance(layer.base, Conv1D)
        torch.testing.assert_close(layer.base.weight, twin.base_layer.weight, atol=1e-6, rtol=1e-5)
    ids = tokens(3, 7)
    torch.testing.assert_close(ours(ids).logits, base(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_decomposed_in_float32_and_rounded_once(dtype):
    weight = weight_with_values([9.0, 5.0, 3.0, 2.0, 1.0]).to(dtype)
    layer = LoRALinear(linear(weight, dtype), rank=2, alpha=3.0)
    init_pissa_(layer)
    u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    top = u[:, :2] * s[:2] @ vt[:2]
    assert layer.a_RI.dtype == torch.float32
    torch.testing.assert_close(layer.delta().double(), top, atol=1e-5, rtol=1e-5)
    exact = (weight.double() - layer.delta().double()).to(dtype)
    assert layer.base.weight.dtype == dtype
    assert torch.equal(layer.base.weight, exact)


def test_a_tied_layer_keeps_the_whole_weight():
    model, ids = llama(tied=True), tokens(3, 7)
    shared = model.model.embed_tokens.weight
    original, expected = shared.detach().clone(), model(ids).logits
    add_lora(model, targets=["lm_head"], rank=4, alpha=10, variant="pissa")
    assert model.model.embed_tokens.weight is shared
    assert torch.equal(shared, original)
    assert not torch.equal(model.lm_head.base.weight, original)
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("targets", [["lm_head"], ["q_proj"]])
def test_a_trained_tied_model_survives_its_file(targets, tmp_path):
    model, ids = llama(tied=True), tokens(3, 7)
    randomise_(add_lora(model, targets=targets, rank=4, alpha=10, variant="pissa"))
    assert model.config.tie_word_embeddings is (targets == ["q_proj"])
    expected = model(ids).logits
    remove_lora_(merge_lora_(model)).save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_both_factors_get_gradients_at_once():
    layer = LoRALinear(linear(weight_with_values([9.0, 5.0, 3.0])), rank=2, alpha=3.0)
    init_pissa_(layer)
    layer(torch.randn(11, 5, dtype=torch.float64)).square().sum().backward()
    assert layer.a_RI.grad.any()
    assert layer.b_OR.grad.any()
    assert not layer.base.weight.requires_grad
    assert isinstance(layer.base.weight, nn.Parameter)


def test_merging_restores_the_weight_and_unmerging_the_residual():
    weight = weight_with_values([9.0, 5.0, 3.0, 2.0, 1.0])
    layer = LoRALinear(linear(weight), rank=2, alpha=3.0)
    init_pissa_(layer)
    residual = layer.base.weight
    merge_lora_(layer)
    torch.testing.assert_close(layer.base.weight.detach(), weight)
    unmerge_lora_(layer)
    assert layer.base.weight is residual


def test_autocast_does_not_reach_it(device):
    weight = weight_with_values([9.0, 5.0, 3.0, 2.0, 1.0]).float()
    layer = LoRALinear(linear(weight, torch.float32).to(device), rank=2, alpha=3.0)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        init_pissa_(layer)
    total = layer.base.weight.detach() + layer.delta().detach()
    torch.testing.assert_close(total.cpu(), weight, atol=1e-5, rtol=1e-5)


def test_what_is_refused():
    fresh = LoRALinear(nn.Linear(7, 5), rank=2, alpha=3.0)
    trained = randomise_(copy.deepcopy(fresh))
    with pytest.raises(ValueError, match="expected a new layer with B = 0, got one with an update"):
        init_pissa_(trained)
    merged = merge_lora_(copy.deepcopy(fresh))
    with pytest.raises(RuntimeError, match="expected an unmerged layer, got a merged one"):
        init_pissa_(merged)
    with pytest.raises(TypeError, match="layer: expected LoRALinear, got DoRALinear"):
        init_pissa_(DoRALinear(nn.Linear(7, 5), rank=2, alpha=3.0))
    with pytest.raises(TypeError, match="layer: expected LoRALinear, got Linear"):
        init_pissa_(nn.Linear(7, 5))
    with pytest.raises(ValueError, match="base: expected a dense weight, got a 4-bit one"):
        init_pissa_(LoRALinear(QuantizedLinear(nn.Linear(7, 5)), rank=2, alpha=3.0))
    init_pissa_(fresh)
    weight = fresh.base.weight
    with pytest.raises(ValueError, match="expected a new layer"):
        init_pissa_(fresh)  # twice
    assert fresh.base.weight is weight


def test_a_weight_that_is_not_finite_is_refused_and_kept():
    layer = LoRALinear(nn.Linear(7, 5), rank=2, alpha=3.0)
    with torch.no_grad():
        layer.base.weight[1, 2] = torch.inf
    weight, a = layer.base.weight, layer.a_RI.detach().clone()
    with pytest.raises(ValueError, match="base: expected a finite weight, got NaN or infinity"):
        init_pissa_(layer)
    assert layer.base.weight is weight
    assert torch.equal(layer.a_RI, a)
    assert layer.init == layer.variant == "lora"
