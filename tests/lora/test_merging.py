"""Merging rounds once, unmerging restores every bit, and an error changes nothing."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from companion.lora import (
    DoRALinear,
    LoRAConv2d,
    LoRAEmbedding,
    LoRALinear,
    QuantizedLinear,
    add_lora,
    lora_layers,
    merge_lora_,
    remove_lora_,
    unmerge_lora_,
)
from tests.lora.peft_oracle import gpt2, llama, peft_twin, randomise_, tokens

TARGETS = ["q_proj", "v_proj", "down_proj"]
VARIANTS = [("lora", {}), ("rslora", {"use_rslora": True}), ("dora", {"use_dora": True})]


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]), name


def layers_of_every_kind():
    """Each with an input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(11, 7)
        pairs = [
            (LoRALinear(nn.Linear(7, 5), rank=3, alpha=6.0), x),
            (LoRALinear(Conv1D(5, 7), rank=3, alpha=6.0, scaling="alpha/sqrt(r)"), x),
            (DoRALinear(nn.Linear(7, 5), rank=3, alpha=6.0), x),
            (DoRALinear(Conv1D(5, 7), rank=3, alpha=6.0), x),
            (LoRAEmbedding(nn.Embedding(13, 5), rank=3, alpha=6.0), torch.arange(13)),
            (LoRAConv2d(nn.Conv2d(3, 5, 2), rank=3, alpha=6.0), torch.randn(2, 3, 7, 11)),
        ]
    return [(randomise_(layer).eval(), x) for layer, x in pairs]


KINDS = pytest.mark.parametrize(
    ("layer", "x"),
    layers_of_every_kind(),
    ids=[
        f"{type(layer).__name__} of {type(layer.base).__name__}"
        for layer, _ in layers_of_every_kind()
    ],
)


# What a merged weight is


def test_by_hand():
    layer = LoRALinear(nn.Linear(2, 1), rank=1, alpha=3.0)
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.a_RI.copy_(torch.tensor([[1.0, -1.0]]))
        layer.b_OR.fill_(2.0)
    bias = layer.base.bias
    merge_lora_(layer)
    assert layer.base.weight.tolist() == [[7.0, -4.0]]
    assert layer.base.bias is bias
    unmerge_lora_(layer)
    assert layer.base.weight.tolist() == [[1.0, 2.0]]


@KINDS
@pytest.mark.parametrize(
    ("dtype", "atol", "rtol"), [(torch.float32, 1e-5, 1e-5), (torch.float64, 1e-12, 1e-12)]
)
def test_output_is_the_same_merged_and_unmerged(layer, x, dtype, atol, rtol, device):
    layer = copy.deepcopy(layer).to(device, dtype)
    x = x.to(device, dtype) if x.is_floating_point() else x.to(device)
    before, weight = bits(layer), layer.base.weight
    expected = layer(x)
    merge_lora_(layer)
    assert layer.is_merged
    torch.testing.assert_close(layer(x), expected, atol=atol, rtol=rtol)
    torch.testing.assert_close(layer.base(x), expected, atol=atol, rtol=rtol)
    assert layer.base.weight.shape == weight.shape
    assert layer.base.weight.is_contiguous()
    assert not layer.base.weight.requires_grad
    unmerge_lora_(layer)
    assert not layer.is_merged
    assert layer.base.weight is weight
    assert_same_bits(layer, before)
    torch.testing.assert_close(layer(x), expected, atol=0, rtol=0)


@pytest.mark.parametrize(("variant", "options"), VARIANTS)
def test_same_logits_as_pefts_merged_model(variant, options):
    base, ids = llama(), tokens(3, 7)
    ours = add_lora(copy.deepcopy(base), targets=TARGETS, rank=4, alpha=10, variant=variant)
    randomise_(ours)
    theirs = peft_twin(base, ours, target_modules=TARGETS, r=4, lora_alpha=10, **options)
    expected = theirs.merge_and_unload()(ids).logits
    unmerged = ours(ids).logits
    merged = merge_lora_(ours)(ids).logits
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(merged, unmerged, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged, base(ids).logits, atol=0.1)


def test_same_weights_as_peft_on_conv1d():
    base, targets = gpt2(), ["c_attn", "c_proj"]
    ours = randomise_(add_lora(copy.deepcopy(base), targets=targets, rank=4, alpha=10))
    settings = {"target_modules": targets, "r": 4, "lora_alpha": 10, "fan_in_fan_out": True}
    theirs = peft_twin(base, ours, **settings).merge_and_unload()
    plain = remove_lora_(merge_lora_(ours))
    for (name, ours_p), (peer, theirs_p) in zip(
        plain.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == peer
        torch.testing.assert_close(ours_p, theirs_p, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_half_precision_is_rounded_once(dtype, kind):
    """As near to the sum in float64 as the dtype allows; rounding the update first is not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = nn.Linear(70, 50, dtype=dtype)
    layer = randomise_(kind(base, rank=3, alpha=6.0), size=0.05)
    weight, b, a = base.weight.double(), 2 * layer.b_OR.double(), layer.a_RI.double()
    delta = b @ a
    dense, sizes = weight + delta, weight.abs() + b.abs() @ a.abs()
    rounded_twice = (base.weight + delta.to(dtype)).to(dtype)
    roundings = 3 + 4  # a sum over the rank, times s, plus W
    if kind is DoRALinear:
        factor = layer.magnitude_O.double()[:, None] / dense.norm(dim=1, keepdim=True)
        dense, sizes = factor * dense, factor * sizes
        rounded_twice = (factor.to(dtype) * rounded_twice).to(dtype)
        roundings += 70 + 7  # the norm, a sum over the inputs, of what was rounded before
    # What float32 may add to the one rounding that cannot be avoided (Higham 2002, §3.1).
    bound = (dense.to(dtype).double() - dense).abs()
    bound += roundings * torch.finfo(torch.float32).eps / 2 * sizes
    merge_lora_(layer)
    assert layer.base.weight.dtype == dtype
    assert ((layer.base.weight.double() - dense).abs() <= bound).all()
    assert not ((rounded_twice.double() - dense).abs() <= bound).all()


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_a_model_that_holds_the_same_layer_keeps_it(variant):
    """The other one plain, or adapted itself; the layer of a merged model is its own."""
    layer, x = nn.Linear(7, 5), torch.randn(3, 7)
    plain, adapted, model = (nn.Sequential(layer) for _ in range(3))
    expected = layer(x)
    randomise_(add_lora(adapted, targets=["0"], rank=2, alpha=3.0))
    expected_adapted = adapted(x)
    add_lora(model, targets=["0"], rank=2, alpha=3.0, variant=variant)
    assert torch.equal(plain(x), expected)
    randomise_(model)
    unmerged = model(x)
    merge_lora_(model)
    torch.testing.assert_close(model.eval()(x), unmerged)
    assert not torch.allclose(unmerged, expected)
    assert torch.equal(plain(x), expected)
    assert torch.equal(adapted(x), expected_adapted)
    unmerge_lora_(model)
    torch.testing.assert_close(model(x), unmerged, rtol=0, atol=0)
    assert torch.equal(plain(x), expected)


def test_a_forward_that_is_bound_to_its_layer_is_merged_too():
    """As accelerate's hooks bind it: a copy of the layer would compute with the old weight."""
    layer, x = nn.Linear(7, 5), torch.randn(3, 7)
    layer.forward = layer.forward
    model = randomise_(add_lora(nn.Sequential(layer), targets=["0"], rank=2, alpha=3.0))
    unmerged = model(x)
    torch.testing.assert_close(merge_lora_(model).eval()(x), unmerged)


def test_autocast_does_not_reach_the_merge(device):
    layer = randomise_(LoRALinear(nn.Linear(70, 50), rank=3, alpha=6.0)).to(device)
    twin = copy.deepcopy(layer)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        merge_lora_(layer)
    merge_lora_(twin)
    assert torch.equal(layer.base.weight, twin.base.weight)


# Restoring the base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_unmerging_restores_every_bit(variant, dtype):
    """Subtracting ΔW would not: the first assertion shows it."""
    model = llama().to(dtype)
    add_lora(model, targets=TARGETS, rank=4, alpha=10, variant=variant)
    randomise_(model, size=1.0)
    layer = model.model.layers[0].self_attn.q_proj
    if variant != "dora":
        subtracted = (layer.merged_weight().to(dtype) - layer.delta()).to(dtype)
        assert not torch.equal(subtracted, layer.base.weight)
    before = bits(model)
    objects = {name: layer.base.weight for name, layer in lora_layers(model).items()}
    for _ in range(3):
        unmerge_lora_(merge_lora_(model))
    assert_same_bits(model, before)
    assert all(lora_layers(model)[name].base.weight is p for name, p in objects.items())


def test_training_goes_on_after_unmerging():
    model = randomise_(add_lora(llama(), targets=TARGETS, rank=4, alpha=10)).train()
    unmerge_lora_(merge_lora_(model))
    model(input_ids=tokens(2, 5), labels=tokens(2, 5)).loss.backward()
    assert all(p.grad.any() for m in lora_layers(model).values() for p in m.adapter_parameters())


def test_eval_and_train_do_not_merge_or_unmerge():
    model = randomise_(add_lora(llama(), targets=TARGETS, rank=4, alpha=10))
    before = bits(model)
    for mode in (True, False):
        model.train(mode)
        assert_same_bits(model, before)
    merge_lora_(model)
    merged = bits(model)
    for mode in (True, False):
        model.train(mode)
        assert_same_bits(model, merged)


@KINDS
def test_a_merged_layer_does_not_train(layer, x):
    layer = merge_lora_(copy.deepcopy(layer)).train()
    with pytest.raises(RuntimeError, match=r"got a merged one.*call unmerge_lora_\(model\)"):
        layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), layer.base(x))
    assert not layer.eval()(x).requires_grad


def test_without_the_base_there_is_no_way_back():
    layer = randomise_(LoRALinear(nn.Linear(7, 5), rank=3, alpha=6.0)).eval()
    x = torch.randn(11, 7)
    expected = layer(x)
    merge_lora_(layer, keep_base=False)
    assert layer.kept_weight is None
    assert sum(p.numel() for p in layer.parameters()) == 7 * 5 + 5 + 3 * (7 + 5)
    before = bits(layer)
    with pytest.raises(RuntimeError, match="expected a kept base, got keep_base=False"):
        unmerge_lora_(layer)
    assert_same_bits(layer, before)
    torch.testing.assert_close(layer(x), expected)


# The state of a merged model


@pytest.mark.parametrize("keep_base", [True, False])
def test_files_of_merged_and_unmerged_models_do_not_mix(keep_base):
    """Else the update would be in the weights twice, or not at all."""
    model = randomise_(add_lora(llama(), targets=TARGETS, rank=4, alpha=10))
    unmerged = copy.deepcopy(model)
    merge_lora_(model, keep_base=keep_base)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*q_proj\.merged"):
        unmerged.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*q_proj\.merged"):
        model.load_state_dict(unmerged.state_dict())


def test_copying_and_casting_a_merged_model():
    model = merge_lora_(randomise_(add_lora(llama(), targets=TARGETS, rank=4, alpha=10)))
    ids = tokens(3, 7)
    expected = model(ids).logits
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin.double()(ids).logits.float(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(unmerge_lora_(twin)(ids).logits.float(), expected, atol=1e-4, rtol=0)
    assert {p.dtype for p in twin.parameters()} == {torch.float64}
    assert all(layer.is_merged for layer in lora_layers(model).values())


def test_merged_weights_are_not_adapters():
    model = randomise_(add_lora(llama(), targets=TARGETS, rank=4, alpha=10))
    names = [[name for name, _ in m.named_parameters(recurse=False)] for m in model.modules()]
    parameters = list(lora_layers(model)["model.layers.0.self_attn.q_proj"].adapter_parameters())
    merge_lora_(model)
    layer = lora_layers(model)["model.layers.0.self_attn.q_proj"]
    assert [id(p) for p in layer.adapter_parameters()] == [id(p) for p in parameters]
    assert torch.equal(layer.weight, layer.base.weight)
    unmerge_lora_(model)
    assert names == [
        [name for name, _ in m.named_parameters(recurse=False)] for m in model.modules()
    ]


# Tied weights


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_tied_weight_gets_a_copy_and_its_tie_back(target):
    model, ids = llama(tied=True), tokens(3, 7)
    shared = model.lm_head.weight
    assert model.model.embed_tokens.weight is shared
    randomise_(add_lora(model, targets=[target], rank=4, alpha=10))
    expected, original = model(ids).logits, shared.detach().clone()
    merge_lora_(model)
    assert model.config.tie_word_embeddings is False
    assert torch.equal(shared, original)
    other = model.lm_head if target == "embed_tokens" else model.model.embed_tokens
    assert other.weight is shared
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
    unmerge_lora_(model)
    assert model.config.tie_word_embeddings is True
    assert torch.equal(shared, original)
    (layer,) = lora_layers(model).values()
    assert layer.base.weight is other.weight is shared
    assert torch.equal(model(ids).logits, expected)


def test_both_tied_layers_adapted():
    model, ids = llama(tied=True), tokens(3, 7)
    targets = ["embed_tokens", "lm_head"]
    randomise_(add_lora(model, targets=targets, rank=4, alpha=10))
    expected = model(ids).logits
    torch.testing.assert_close(merge_lora_(model)(ids).logits, expected, atol=1e-5, rtol=1e-5)
    unmerge_lora_(model)
    assert model.lm_head.base.weight is model.model.embed_tokens.base.weight
    assert model.config.tie_word_embeddings is True


def test_other_layers_do_not_touch_the_tie():
    model = randomise_(add_lora(llama(tied=True), targets=TARGETS, rank=4, alpha=10))
    merge_lora_(model)
    assert model.config.tie_word_embeddings is True
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_config_that_says_untied_stays_so():
    model = randomise_(add_lora(llama(), targets=["lm_head"], rank=4, alpha=10))
    assert unmerge_lora_(merge_lora_(model)).config.tie_word_embeddings is False


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head", "q_proj"])
def test_a_merged_tied_model_survives_its_file(target, tmp_path):
    model, ids = llama(tied=True), tokens(3, 7)
    randomise_(add_lora(model, targets=[target], rank=4, alpha=10))
    expected = model(ids).logits
    remove_lora_(merge_lora_(model)).save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=1e-5)


# What is refused, and that the model is then as it was


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["a_RI", "base.weight"])
def test_weights_that_are_not_finite_are_refused(value, where):
    model = randomise_(add_lora(llama(), targets=TARGETS, rank=4, alpha=10))
    last = model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        last.get_parameter(where)[0, 1] = value
    name = r"model\.layers\.1\.mlp\.down_proj: expected a finite merged weight, got NaN or inf"
    first = model.model.layers[0].self_attn.q_proj.base.weight
    original = first.clone()
    with pytest.raises(ValueError, match=name):
        merge_lora_(model)
    assert not any(layer.is_merged for layer in lora_layers(model).values())
    assert model.model.layers[0].self_attn.q_proj.base.weight is first
    assert torch.equal(first, original)


def test_an_update_too_large_for_float16_is_refused():
    layer = LoRALinear(nn.Linear(7, 5, dtype=torch.float16), rank=1, alpha=1.0)
    with torch.no_grad():
        layer.a_RI.fill_(300.0)
        layer.b_OR.fill_(300.0)
    assert layer.delta().isfinite().all()  # 90000 is no float16
    with pytest.raises(ValueError, match="expected a finite merged weight"):
        merge_lora_(layer)


def test_merging_twice_and_unmerging_what_is_not_merged():
    model = randomise_(add_lora(llama(), targets=TARGETS, rank=4, alpha=10))
    with pytest.raises(RuntimeError, match="q_proj: expected a merged layer, got an unmerged one"):
        unmerge_lora_(model)
    merge_lora_(model)
    before = bits(model)
    with pytest.raises(RuntimeError, match="q_proj: expected an unmerged layer, got a merged one"):
        merge_lora_(model)
    assert_same_bits(model, before)


@pytest.mark.parametrize("call", [merge_lora_, unmerge_lora_])
def test_nothing_to_merge(call):
    with pytest.raises(ValueError, match="expected a model with LoRA layers, got none"):
        call(nn.Linear(7, 5))


def test_a_convolution_with_groups_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1, groups=2))
    randomise_(add_lora(model, targets=["0", "1"], rank=2, alpha=4.0))
    with pytest.raises(ValueError, match=r"^1: expected groups=1 .* got groups=2"):
        merge_lora_(model)
    assert not model[0].is_merged


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_a_four_bit_base_is_adapted_but_not_merged(kind):
    linear = nn.Linear(7, 5).double()
    layer = randomise_(kind(QuantizedLinear(linear), rank=3, alpha=6.0))
    linear.weight = nn.Parameter(layer.base.dequantize())
    dense = kind(linear, rank=3, alpha=6.0)
    dense.load_state_dict(layer.state_dict() | {"base.weight": linear.weight}, strict=False)
    x = torch.randn(11, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x))
    torch.testing.assert_close(layer.weight, dense.weight)
    assert layer.a_RI.dtype == torch.float64
    model = nn.ModuleDict({"q": layer})
    with pytest.raises(ValueError, match=r"q: .* got a 4-bit one: call dequantize_base_\(model\)"):
        merge_lora_(model)
