"""QuantizedLinear against nn.Linear with the dequantised weight, and QLoRA against LoRA on it."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.testing import assert_close

from companion.lora.four_bit.nf4 import nf4_quantize
from companion.lora.four_bit.quantized import QuantizedLinear, dequantize_base_, quantize_base_
from companion.lora.linear import LoRALinear

DTYPES = [
    (torch.bfloat16, 1e-2, 2e-2),
    (torch.float16, 2e-3, 2e-3),
    (torch.float32, 1e-6, 1e-5),
    (torch.float64, 1e-14, 1e-12),
]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def linear(inputs, outputs, *, bias=True, dtype=torch.float32, seed=0):
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + k) / math.sqrt(inputs))
    return layer.to(dtype)


def twin(base, **settings):
    """An nn.Linear whose weight was quantised and dequantised by nf4.py, tested on its own."""
    layer = copy.deepcopy(base)
    layer.weight.requires_grad_(False)
    layer.weight.copy_(nf4_quantize(layer.weight, **settings).dequantize())
    return layer


# One layer


@pytest.mark.parametrize(("dtype", "atol", "rtol"), DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("settings", [{}, {"double": False}, {"block": 5}])
def test_output_and_gradients_of_the_dense_layer(settings, bias, dtype, atol, rtol, device):
    base = linear(11, 7, bias=bias, dtype=dtype).to(device)
    peer, layer = twin(base, **settings), QuantizedLinear(base, **settings)
    assert (layer.in_features, layer.out_features) == (11, 7)
    g = normal(3, 5, 7, seed=9, dtype=dtype).to(device)
    found, expected = [], []
    for module, results in ((layer, found), (peer, expected)):
        x = normal(3, 5, 11, seed=8, dtype=dtype).to(device).requires_grad_()
        y = module(x)
        assert y.dtype == dtype
        y.backward(g)
        results += [y.detach(), x.grad]
        if bias:
            results.append(module.bias.grad)
            module.bias.grad = None
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, atol=atol, rtol=rtol)


@pytest.mark.parametrize("shape", [(11,), (0, 11), (3, 11), (2, 3, 5, 11)])
def test_any_leading_axes(shape):
    base = linear(11, 7)
    layer, peer = QuantizedLinear(base), twin(base)
    x = normal(*shape).requires_grad_()
    y = layer(x)
    assert_close(y, peer(x))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert_close(gradient, peer.weight.sum(0).expand(shape))


def test_strided_inputs():
    base = linear(11, 7)
    layer, peer = QuantizedLinear(base), twin(base)
    x = normal(11, 5, 3).transpose(0, 2)
    assert not x.is_contiguous()
    assert_close(layer(x), peer(x))


def test_first_and_second_derivatives():
    layer = QuantizedLinear(linear(5, 3, dtype=torch.float64))
    x = normal(2, 5, dtype=torch.float64).requires_grad_()

    def through(x, bias):
        return torch.func.functional_call(layer, {"bias": bias}, (x,)).sin()

    assert torch.autograd.gradcheck(through, (x, layer.bias))
    assert torch.autograd.gradgradcheck(through, (x, layer.bias))


def test_dequantize_is_what_it_computes_with():
    base = linear(11, 7, bias=False)
    layer = QuantizedLinear(base)
    assert_close(layer.dequantize(), nf4_quantize(base.weight).dequantize(), atol=0, rtol=0)
    assert_close(layer(torch.eye(11)).T, layer.dequantize())
    assert not layer.dequantize().requires_grad
    assert (layer.dequantize() - base.weight).abs().max() > 0.01


def test_the_base_is_left_alone_and_the_bias_is_shared():
    base = linear(11, 7)
    before = copy.deepcopy(base)
    layer = QuantizedLinear(base.eval())
    assert torch.equal(base.weight, before.weight)
    assert base.weight.requires_grad
    assert layer.bias is base.bias
    assert not layer.training
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert list(QuantizedLinear(linear(11, 7, bias=False)).parameters()) == []


def test_the_settings_are_printed():
    layer = QuantizedLinear(nn.Linear(11, 7, bias=False), block=32, double=False)
    expected = "in_features=11, out_features=7, bias=False, block=32, double=False"
    assert repr(layer) == f"QuantizedLinear({expected})"


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast_decides_as_it_does_for_the_dense_layer(x_dtype, device):
    base = linear(11, 7).to(device)
    peer, layer = twin(base), QuantizedLinear(base)
    x = normal(5, 11, dtype=x_dtype).to(device).requires_grad_()
    if x_dtype == torch.float64:
        peer = peer.double()
    with torch.autocast(device, torch.bfloat16):
        y, expected = layer(x), peer(x)
    assert (
        y.dtype == expected.dtype == (torch.float64 if x_dtype == torch.float64 else torch.bfloat16)
    )
    assert_close(y, expected, atol=1e-2, rtol=1e-2)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (other,) = torch.autograd.grad(expected.sum(), x)
    assert gradient.dtype == x_dtype
    assert_close(gradient, other, atol=1e-2, rtol=1e-2)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's
@pytest.mark.parametrize("double", [True, False])
def test_it_compiles_into_one_graph(double):
    layer = QuantizedLinear(linear(11, 7), double=double)
    x = normal(5, 11).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for module in (layer, compiled):
        y = module(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, layer.bias])))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (nn.Embedding(5, 3), "Embedding"),
        (nn.Conv1d(2, 3, 1), "Conv1d"),
        (nn.MultiheadAttention(4, 2).out_proj, "NonDynamicallyQuantizableLinear"),
        (QuantizedLinear(nn.Linear(4, 2)), "QuantizedLinear"),
    ],
)
def test_only_plain_linear_layers(base, name):
    with pytest.raises(TypeError, match=f"base: expected nn.Linear, got {name}"):
        QuantizedLinear(base)


def test_a_parametrised_layer_is_not_plain():
    layer = nn.Linear(4, 2)
    parametrize.register_parametrization(layer, "weight", nn.Tanh())
    with pytest.raises(TypeError, match=r"base: expected nn\.Linear, got ParametrizedLinear"):
        QuantizedLinear(layer)


# Memory


def test_it_holds_an_eighth_of_the_bytes():
    layer = QuantizedLinear(nn.Linear(512, 256, bias=False))
    scales = 512 * 256 // 64
    stored = sum(t.nbytes for t in layer.state_dict().values())
    assert stored == layer.quantized.bytes == 512 * 256 // 2 + scales + 4 * scales // 256 + 4
    tables = 256 * (8 + 4)
    assert sum(t.nbytes for t in layer.buffers()) == stored + tables


def saved_bytes(run):
    """Bytes of the storages that autograd keeps for the backward pass."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


def test_no_dense_weight_waits_for_the_backward_pass():
    base = linear(512, 256, bias=False)
    layer, x = QuantizedLinear(base), normal(3, 512).requires_grad_()
    assert saved_bytes(lambda: layer(x)) == 0
    # The naive way, to see that the count would show it: the dense weight, 512 KiB.
    assert saved_bytes(lambda: nn.functional.linear(x, layer.dequantize())) >= 4 * 512 * 256
    adapted = LoRALinear(layer, rank=2, alpha=4.0)
    assert saved_bytes(lambda: adapted(x)) < 4 * 512 * 256 / 10


# Moves and copies


@pytest.mark.parametrize("double", [True, False])
def test_a_change_of_dtype_leaves_codes_and_scales(double):
    layer = QuantizedLinear(linear(77, 64), double=double)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    dense = layer.dequantize()
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        layer.to(dtype)
        for name, buffer in layer.named_buffers():
            assert buffer.dtype == before[name].dtype, name
            assert torch.equal(buffer, before[name]), name
        assert layer.bias.dtype == layer.dtype == dtype
        assert layer.dequantize().dtype == dtype
        assert torch.equal(layer.dequantize(), dense.to(dtype))
        assert layer(normal(3, 77, dtype=dtype)).dtype == dtype
    nn.Sequential(layer).half()
    assert layer.dtype == torch.float16
    assert layer.scales.dtype == before["scales"].dtype


def test_a_change_of_device_takes_everything_along(device):
    layer = QuantizedLinear(linear(77, 64)).to(device, torch.bfloat16)
    assert {t.device.type for t in (*layer.buffers(), *layer.parameters())} == {device}
    assert layer.quantized.device.type == device
    assert layer.mean_scale.dtype == torch.float32
    assert layer(normal(3, 77, dtype=torch.bfloat16).to(device)).device.type == device
    layer.to("meta", torch.float16)  # both at once
    assert {t.device.type for t in (*layer.buffers(), *layer.parameters())} == {"meta"}
    assert (layer.mean_scale.dtype, layer.dtype) == (torch.float32, torch.float16)


@pytest.mark.parametrize("double", [True, False])
def test_copies_and_files(double):
    layer = QuantizedLinear(linear(77, 64), double=double).bfloat16()
    x = normal(3, 77, dtype=torch.bfloat16)
    expected = layer(x)
    for clone in (copy.deepcopy(layer), saved_and_loaded(layer)):
        assert torch.equal(clone(x), expected)
        assert clone.dtype == torch.bfloat16
        assert clone.packed.data_ptr() != layer.packed.data_ptr()
    fresh = QuantizedLinear(linear(77, 64, seed=5), double=double).bfloat16()
    assert not torch.equal(fresh(x), expected)
    keys = {"packed", "scales", "bias"} | ({"group_scales", "mean_scale"} if double else set())
    assert set(layer.state_dict()) == keys
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), expected)


def saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


# A whole model


def two_layers():
    return nn.Sequential(linear(64, 32), nn.Tanh(), linear(32, 3, seed=4))


def test_only_the_targets_are_quantised():
    model = two_layers().eval()
    expected = nn.Sequential(twin(model[0]), nn.Tanh(), copy.deepcopy(model[2]))
    last = model[2]
    assert quantize_base_(model, targets=["0"], block=32, double=False) is model
    assert isinstance(model[0], QuantizedLinear)
    assert (model[0].block, model[0].group_scales) == (32, None)
    assert model[2] is last
    assert not model[0].training
    model = quantize_base_(two_layers(), targets=["0"])
    x = normal(5, 64)
    assert_close(model(x), expected(x))


def test_dequantising_gives_frozen_linear_layers_with_the_same_outputs():
    model = quantize_base_(two_layers().bfloat16(), targets=["0", "2"]).eval()
    x = normal(5, 64, dtype=torch.bfloat16)
    expected, bias = model(x), model[0].bias
    assert dequantize_base_(model) is model
    assert [type(layer) for layer in model] == [nn.Linear, nn.Tanh, nn.Linear]
    assert torch.equal(model(x), expected)
    assert model[0].bias is bias
    assert model[0].weight.dtype == torch.bfloat16
    assert not model[0].weight.requires_grad
    assert not model[0].training
    assert (model[0].in_features, model[0].out_features) == (64, 32)
    bare = quantize_base_(nn.Sequential(linear(64, 3, bias=False)), targets=["0"])
    assert dequantize_base_(bare)[0].bias is None


def test_models_that_read_the_weight():
    """TransformerEncoder in eval never calls its linear layers; T5 asks for a weight's dtype."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    encoder = quantize_base_(nn.TransformerEncoder(layer, 2), targets=["linear1", "linear2"])
    x = normal(2, 3, 8, seed=1)
    called = encoder.train()(x).detach()
    with torch.no_grad():
        assert_close(encoder.eval()(x), called)
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 7, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    t5 = transformers.T5EncoderModel(transformers.T5Config(**sizes, dropout_rate=0.0)).eval()
    tokens = torch.tensor([[1, 2, 3]])
    quantize_base_(t5, targets=["wi", "wo", "q"])
    found = t5(tokens).last_hidden_state
    assert_close(found, dequantize_base_(t5)(tokens).last_hidden_state)


def test_a_layer_in_two_places_stays_one_layer():
    shared = linear(64, 64)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    quantize_base_(model, targets=["0", "2"])
    assert model[0] is model[2]
    dequantize_base_(model)
    assert type(model[0]) is nn.Linear
    assert model[0] is model[2]


def tied():
    model = nn.ModuleDict({"embed": nn.Embedding(11, 64), "head": nn.Linear(64, 11, bias=False)})
    model["head"].weight = model["embed"].weight
    return model


def with_nan():
    model = two_layers()
    with torch.no_grad():
        model[2].weight[1, 2] = math.nan
    return model


@pytest.mark.parametrize(
    ("build", "targets", "error", "message"),
    [
        (two_layers, "0", TypeError, "expected a sequence .*, got one string"),
        (two_layers, ["0", "3"], ValueError, "expected the name of a layer or its end, got '3'"),
        (two_layers, ["0", "1"], ValueError, r"1: expected nn\.Linear, got Tanh"),
        (
            tied,
            ["head"],
            ValueError,
            "head: expected a weight of its own, got one shared with embed",
        ),
        (with_nan, ["0", "2"], ValueError, "2: weight: expected finite float32 numbers"),
        (
            lambda: quantize_base_(two_layers(), targets=["0"]),
            ["2", "0"],
            ValueError,
            r"0: expected nn\.Linear, got QuantizedLinear",
        ),
        (
            lambda: nn.Sequential(LoRALinear(nn.Linear(5, 3), rank=1, alpha=1.0), nn.Linear(3, 2)),
            ["1"],
            ValueError,
            "0: expected a layer without LoRA, got LoRALinear: quantise the base first",
        ),
        (lambda: linear(5, 3), ["weight"], ValueError, "got 'weight'"),
    ],
)
def test_what_is_refused_leaves_the_model_as_it_was(build, targets, error, message):
    model = build()
    layers, state = list(model.modules()), copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        quantize_base_(model, targets=targets)
    assert list(model.modules()) == layers
    for name, value in model.state_dict().items():
        assert_close(value, state[name], atol=0, rtol=0, equal_nan=True)


def test_bad_settings_name_the_layer():
    with pytest.raises(ValueError, match="0: block: expected at least 1, got 0"):
        quantize_base_(two_layers(), targets=["0"], block=0)


def test_nothing_to_dequantise():
    with pytest.raises(ValueError, match="that holds QuantizedLinear layers, got none"):
        dequantize_base_(two_layers())
    with pytest.raises(ValueError, match="that holds QuantizedLinear layers, got one"):
        dequantize_base_(QuantizedLinear(nn.Linear(5, 3)))


# QLoRA


def with_adapters(base, *, seed):
    layer = LoRALinear(base, rank=2, alpha=6.0)
    with torch.no_grad():
        layer.a_RI.copy_(normal(2, 11, seed=seed))
        layer.b_OR.copy_(normal(7, 2, seed=seed + 1))
    return layer


@pytest.mark.parametrize(("dtype", "atol", "rtol"), DTYPES)
def test_lora_over_the_quantised_layer_is_lora_over_the_dense_one(dtype, atol, rtol, device):
    base = linear(11, 7, dtype=dtype).to(device)
    results = []
    for frozen in (QuantizedLinear(base), twin(base)):
        layer = with_adapters(frozen, seed=3).to(device)
        assert layer.a_RI.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        x = normal(5, 11, seed=8, dtype=dtype).to(device).requires_grad_()
        y = layer(x)
        assert y.dtype == dtype
        y.backward(normal(5, 7, seed=9, dtype=dtype).to(device))
        assert layer.base.bias.grad is None
        results.append((y, x.grad, layer.a_RI.grad, layer.b_OR.grad))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=20 * atol, rtol=rtol)


def test_qlora_learns_what_the_frozen_base_lacks():
    torch.manual_seed(0)
    model = quantize_base_(two_layers(), targets=["0", "2"])
    codes = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for name in ("0", "2"):
        setattr(model, name, LoRALinear(model.get_submodule(name), rank=2, alpha=4.0))
    x = normal(31, 64)
    with torch.no_grad():
        target = model(x) + normal(1, 3, seed=5) * torch.tanh(x[:, :1])
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 4
    optimizer = torch.optim.AdamW(trained, lr=2e-2)
    losses = []
    for _ in range(60):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, codes[name.replace("base.", "")])
    with torch.no_grad():
        before = model(x)
        dequantize_base_(model)
        assert type(model[0].base) is nn.Linear
        assert_close(model(x), before)
