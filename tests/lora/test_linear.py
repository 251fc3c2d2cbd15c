"""LoRALinear by hand, against closed forms, and against PEFT on whole language models."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from transformers.pytorch_utils import Conv1D

from companion.lora import LoRALinear, add_lora, lora_layers, lora_parameters
from companion.lora.linear import dense_weight
from tests.lora.peft_oracle import (
    assert_same_gradient,
    gpt2,
    llama,
    peft_twin,
    randomise_,
    seeded,
    tokens,
)

TARGETS = ["q_proj", "v_proj", "down_proj"]


def adapted(*, inputs=7, outputs=5, rank=3, alpha=6.0, dtype=torch.float64, bias=True, **settings):
    base = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    layer = LoRALinear(base, rank=rank, alpha=alpha, **settings)
    return randomise_(layer)


# What it computes


def test_by_hand():
    base = nn.Linear(2, 2)
    layer = LoRALinear(base, rank=1, alpha=3.0)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        base.bias.copy_(torch.tensor([10.0, 20.0]))
        layer.a_RI.copy_(torch.tensor([[1.0, 1.0]]))
        layer.b_OR.copy_(torch.tensor([[1.0], [-1.0]]))
    # Base: (3+10, 8+20). Update: 3·(3+4) = 21, times (1, −1).
    assert layer(torch.tensor([3.0, 4.0])).tolist() == [34.0, 7.0]
    assert layer.delta().tolist() == [[3.0, 3.0], [-3.0, -3.0]]


@pytest.mark.parametrize(("scaling", "scale"), [("alpha/r", 1.5), ("alpha/sqrt(r)", 3.0)])
def test_scale_by_hand(scaling, scale):
    layer = adapted(rank=4, alpha=6.0, scaling=scaling)
    assert layer.scale == scale
    torch.testing.assert_close(layer.delta(), scale * (layer.b_OR @ layer.a_RI))
    x = torch.randn(11, 7, dtype=torch.float64)
    expected = layer.base(x) + scale * x @ layer.a_RI.T @ layer.b_OR.T
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_new_layer_is_its_base_exactly(dtype, device):
    base = nn.Linear(7, 5, dtype=dtype, device=device)
    x = torch.randn(3, 11, 7, dtype=dtype, device=device)
    expected = base(x)
    layer = LoRALinear(base, rank=3, alpha=16.0, dropout=0.5)
    assert torch.equal(layer.train()(x), expected)
    assert layer(x).dtype == dtype
    assert not layer.b_OR.any()


@pytest.mark.parametrize(
    ("dtype", "atol", "rtol"),
    [
        (torch.float32, 1e-5, 1e-5),
        (torch.float64, 1e-13, 1e-12),
        (torch.bfloat16, 0.05, 0.02),
        (torch.float16, 0.01, 0.002),
    ],
)
@pytest.mark.parametrize("batch", [(), (11,), (2, 11), (2, 3, 11), (0,), (2, 0)])
def test_is_the_dense_layer(batch, dtype, atol, rtol, device):
    layer = adapted(dtype=dtype).to(device)
    x = torch.randn(*batch, 7, dtype=dtype, device=device)
    dense = layer.base.weight.double() + layer.scale * layer.b_OR.double() @ layer.a_RI.double()
    expected = F.linear(x.double(), dense, layer.base.bias.double())
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype), atol=atol, rtol=rtol)


def test_input_that_is_not_contiguous():
    layer = adapted()
    x = torch.randn(7, 11, dtype=torch.float64)
    torch.testing.assert_close(layer(x.T), layer(x.T.contiguous()))


def test_conv1d_of_transformers_is_transposed():
    torch.manual_seed(0)
    base = Conv1D(5, 7)  # 7 inputs, 5 outputs, weight (7, 5)
    layer = randomise_(LoRALinear(base, rank=3, alpha=6.0))
    assert (layer.in_features, layer.out_features) == (7, 5)
    assert (layer.a_RI.shape, layer.b_OR.shape) == ((3, 7), (5, 3))
    x = torch.randn(2, 11, 7)
    dense_IO = base.weight + 2 * (layer.b_OR @ layer.a_RI).T
    torch.testing.assert_close(layer(x), x @ dense_IO + base.bias)
    torch.testing.assert_close(layer.weight, dense_IO)


# PEFT


@pytest.mark.parametrize(("variant", "rslora"), [("lora", False), ("rslora", True)])
def test_same_logits_and_gradients_as_peft(variant, rslora):
    base = llama()
    ours = add_lora(copy.deepcopy(base), targets=TARGETS, rank=4, alpha=10, variant=variant)
    randomise_(ours)
    theirs = peft_twin(base, ours, target_modules=TARGETS, r=4, lora_alpha=10, use_rslora=rslora)
    ids = tokens(3, 7)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours(ids).logits, base(ids).logits, atol=0.1)
    for model in (ours, theirs):
        model(input_ids=ids, labels=ids).loss.backward()
    for name, layer in lora_layers(ours).items():
        twin = theirs.base_model.model.get_submodule(name)
        assert layer.variant == variant
        for factor, peer in ((layer.a_RI, twin.lora_A), (layer.b_OR, twin.lora_B)):
            assert_same_gradient(factor, peer["default"].weight)


def test_same_logits_as_peft_on_conv1d():
    base = gpt2()
    targets = ["c_attn", "c_proj"]
    ours = randomise_(add_lora(copy.deepcopy(base), targets=targets, rank=4, alpha=10))
    assert len(lora_layers(ours)) == 6
    theirs = peft_twin(base, ours, target_modules=targets, r=4, lora_alpha=10, fan_in_fan_out=True)
    ids = tokens(3, 7)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours(ids).logits, base(ids).logits, atol=0.1)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_base_is_pefts(precision):
    base = llama().to(precision)
    ours = randomise_(add_lora(copy.deepcopy(base), targets=TARGETS, rank=4, alpha=10))
    theirs = peft_twin(base, ours, target_modules=TARGETS, r=4, lora_alpha=10)
    for name, layer in lora_layers(ours).items():
        assert {p.dtype for p in layer.adapter_parameters()} == {torch.float32}
        twin = theirs.base_model.model.get_submodule(name)
        assert twin.lora_A["default"].weight.dtype == torch.float32
    ids = tokens(3, 7)
    logits = ours(ids).logits
    assert logits.dtype == precision
    torch.testing.assert_close(logits, theirs(ids).logits, atol=0.05, rtol=0.05)


def test_autocast_is_pefts_and_leaves_the_adapter_in_float32(device):
    base = llama().to(device)
    ours = randomise_(add_lora(copy.deepcopy(base), targets=TARGETS, rank=4, alpha=10))
    theirs = peft_twin(base, ours, target_modules=TARGETS, r=4, lora_alpha=10)
    ids = tokens(3, 7).to(device)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        logits = ours(ids).logits
        torch.testing.assert_close(logits, theirs(ids).logits, atol=0.05, rtol=0.05)
        ours(input_ids=ids, labels=ids).loss.backward()
    layer = ours.model.layers[1].self_attn.q_proj
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        y = layer(torch.randn(2, 24, device=device))
    assert logits.dtype == y.dtype == torch.bfloat16
    for parameter in lora_parameters(ours):
        assert parameter.dtype == parameter.grad.dtype == torch.float32


# Gradients


@pytest.mark.parametrize("scaling", ["alpha/r", "alpha/sqrt(r)"])
def test_gradients_from_the_gradient_of_the_dense_weight(scaling):
    """With ∂L/∂W of the dense layer: ∂L/∂A = s Bᵀ ∂L/∂W and ∂L/∂B = s ∂L/∂W Aᵀ."""
    layer = adapted(scaling=scaling)
    x = torch.randn(2, 11, 7, dtype=torch.float64, requires_grad=True)
    layer(x).tanh().square().sum().backward()
    dense = (layer.base.weight + layer.delta()).detach().requires_grad_()
    x2 = x.detach().clone().requires_grad_()
    F.linear(x2, dense, layer.base.bias).tanh().square().sum().backward()
    s = layer.scale
    torch.testing.assert_close(layer.a_RI.grad, s * layer.b_OR.detach().T @ dense.grad)
    torch.testing.assert_close(layer.b_OR.grad, s * dense.grad @ layer.a_RI.detach().T)
    torch.testing.assert_close(x.grad, x2.grad)


def test_at_the_start_a_gets_no_gradient_and_b_does():
    layer = LoRALinear(nn.Linear(7, 5), rank=3, alpha=6.0)
    x, target = torch.randn(11, 7), torch.randn(11, 5)
    y = layer(x)
    F.mse_loss(y, target).backward()
    assert torch.equal(layer.a_RI.grad, torch.zeros(3, 7))
    g_BO = 2 * (y - target).detach() / y.numel()
    torch.testing.assert_close(layer.b_OR.grad, 2 * g_BO.T @ x @ layer.a_RI.detach().T)


def test_double_backward():
    layer = adapted()
    x = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)

    def call(x, a, b):
        return functional_call(layer, {"a_RI": a, "b_OR": b}, (x,))

    factors = [p.detach().clone().requires_grad_() for p in (layer.a_RI, layer.b_OR)]
    assert torch.autograd.gradgradcheck(call, [x, *factors])


def test_hooks_on_the_base_see_its_own_output():
    layer = adapted()
    seen = []
    layer.base.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(11, 7, dtype=torch.float64)
    layer(x)
    torch.testing.assert_close(seen[0], F.linear(x, layer.base.weight, layer.base.bias))


# What is trained


def test_only_the_factors_are_trained():
    layer = LoRALinear(nn.Linear(7, 5), rank=3, alpha=6.0)
    trained = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == {"a_RI", "b_OR"}
    assert list(layer.adapter_parameters()) == [layer.a_RI, layer.b_OR]
    assert sum(p.numel() for p in layer.adapter_parameters()) == 3 * (7 + 5)


def test_q_and_v_of_gpt2_medium_at_rank_4_make_393216():
    """24 layers × 2 × 4 × (1024 + 1024); the paper's table rounds it down to 0.35 M."""
    with torch.device("meta"):
        blocks = [
            nn.ModuleDict({name: nn.Linear(1024, 1024) for name in ("q", "k", "v", "o")})
            for _ in range(24)
        ]
        model = add_lora(nn.ModuleList(blocks), targets=["q", "v"], rank=4, alpha=32)
    assert sum(p.numel() for p in lora_parameters(model)) == 393_216
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 393_216


def test_a_is_uniform_as_in_nn_linear_and_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    with torch.random.fork_rng():
        base = nn.Linear(400, 300)
    one, same, other = (
        LoRALinear(copy.deepcopy(base), rank=64, alpha=1.0, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.a_RI, same.a_RI)
    assert not torch.equal(one.a_RI, other.a_RI)
    assert one.a_RI.abs().max() <= 1 / 20
    assert one.a_RI.var().item() == pytest.approx(1 / (3 * 400), rel=0.03)  # bound² / 3
    assert abs(one.a_RI.mean()) < 1e-3


@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_adapter_is_at_least_float32(base, adapter):
    layer = LoRALinear(nn.Linear(7, 5, dtype=base), rank=3, alpha=6.0)
    assert layer.a_RI.dtype == layer.b_OR.dtype == adapter
    assert layer.delta().dtype == adapter
    # A step of 1e-4 of the weight's size, as training makes them, is kept.
    with torch.no_grad():
        layer.b_OR.fill_(1.0)
        layer.b_OR += 1e-4
    assert (layer.b_OR != 1).all()


def test_delta_of_an_adapter_in_half_precision_is_made_in_float32():
    layer = adapted(dtype=torch.float32).bfloat16()
    a, b = layer.a_RI.double(), layer.b_OR.double()
    assert layer.a_RI.dtype == torch.bfloat16
    torch.testing.assert_close(layer.delta().double(), 2 * b @ a, atol=1e-6, rtol=1e-6)


# Dropout


def test_dropout_zeroes_inputs_of_the_update_alone():
    layer = LoRALinear(nn.Linear(7, 7), rank=7, alpha=7.0, dropout=0.4)
    with torch.no_grad():
        layer.a_RI.copy_(torch.eye(7))
        layer.b_OR.copy_(torch.eye(7))
    x = 1 + torch.rand(2000, 7, generator=seeded())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        update = (layer.train()(x) - layer.base(x)).detach()
    kept = update.abs() > 1e-3  # the update is drop(x) itself, and x > 1
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.02)
    torch.testing.assert_close(update[kept], x[kept] / 0.6, atol=1e-5, rtol=1e-5)
    assert not torch.equal(kept, kept[:1].expand_as(kept))
    torch.testing.assert_close(layer.eval()(x), layer.base(x) + x)


def test_a_model_in_eval_stays_in_eval():
    model = nn.Sequential(nn.Linear(7, 5)).eval()
    add_lora(model, targets=["0"], rank=3, alpha=6.0, dropout=0.5)
    assert not any(module.training for module in model.modules())
    model.train()
    assert all(module.training for module in model.modules())


def test_train_and_eval_change_no_weight():
    layer = adapted(dropout=0.5)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    for mode in (False, True, False):
        layer.train(mode)
        assert layer.state_dict().keys() == before.keys()
        assert all(torch.equal(layer.state_dict()[name], t) for name, t in before.items())


# The machinery of PyTorch


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compiled_in_one_graph(dropout, device):
    layer = adapted(dropout=dropout).to(device).eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(11, 7, dtype=torch.float64, device=device)
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    got = layer.a_RI.grad.clone()
    layer.zero_grad()
    layer(x).sum().backward()
    torch.testing.assert_close(got, layer.a_RI.grad)


def test_copies_and_files_carry_the_layer_over():
    layer = adapted(dropout=0.25, scaling="alpha/sqrt(r)")
    x = torch.randn(11, 7, dtype=torch.float64)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    fresh = LoRALinear(nn.Linear(7, 5).double(), rank=3, alpha=6.0, scaling="alpha/sqrt(r)")
    fresh.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False), fresh):
        assert torch.equal(other.eval()(x), layer.eval()(x))
        assert other.scale == layer.scale
    assert layer.state_dict().keys() == {"a_RI", "b_OR", "base.weight", "base.bias"}


def test_moving_to_another_device_moves_everything(device):
    layer = adapted(dtype=torch.float32).to(device)
    assert {t.device.type for t in layer.state_dict().values()} == {device}
    assert layer(torch.ones(2, 7, device=device)).device.type == device


def test_new_factors_are_where_the_base_is(device):
    base = nn.Linear(7, 5, device=device)
    layer = LoRALinear(base, rank=3, alpha=6.0, generator=seeded())  # a generator of the CPU
    assert {t.device.type for t in layer.state_dict().values()} == {device}


@pytest.mark.parametrize("bias", [True, False])
def test_weight_is_the_one_in_effect_with_gradients(bias):
    layer = adapted(bias=bias)
    x = torch.randn(11, 7, dtype=torch.float64)
    torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), layer(x))
    F.linear(x, layer.weight, layer.bias).sum().backward()
    expected = [p.grad.clone() for p in layer.adapter_parameters()]
    layer.zero_grad()
    layer(x).sum().backward()
    for parameter, gradient in zip(layer.adapter_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert adapted(dtype=torch.bfloat16).weight.dtype == torch.bfloat16


def test_a_transformer_that_reads_weights_past_the_layer_is_adapted_too():
    """In eval mode ``nn.TransformerEncoderLayer`` reads ``linear1.weight`` and skips the layer."""
    block = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    add_lora(block, targets=["linear1", "linear2"], rank=2, alpha=4)
    randomise_(block)
    x = torch.randn(2, 5, 12)
    block.eval()
    slow = block(x)  # gradients are on, so the layers are called
    with torch.no_grad():
        fast = block(x)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_print_names_the_settings():
    text = repr(LoRALinear(nn.Linear(7, 5), rank=3, alpha=6.0, scaling="alpha/sqrt(r)"))
    assert "rank=3, alpha=6, variant='rslora'" in text


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"rank must be in \[1, 5\], got 0"),
        ({"rank": 6}, r"rank must be in \[1, 5\], got 6"),
        ({"alpha": 0.0}, "alpha: expected a finite number > 0, got 0"),
        ({"alpha": math.nan}, "alpha: expected a finite number > 0, got nan"),
        ({"alpha": math.inf}, "alpha: expected a finite number > 0, got inf"),
        ({"dropout": 1.0}, r"dropout: expected a probability in \[0, 1\), got 1"),
        ({"dropout": -0.1}, r"dropout: expected a probability in \[0, 1\), got -0\.1"),
        ({"scaling": "alpha"}, r"scaling: expected alpha/r or alpha/sqrt\(r\), got 'alpha'"),
    ],
)
def test_impossible_settings_leave_the_base_alone(settings, message):
    base = nn.Linear(7, 5)
    with pytest.raises(ValueError, match=message):
        LoRALinear(base, **{"rank": 2, "alpha": 4.0} | settings)
    assert all(p.requires_grad for p in base.parameters())


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "base",
    [
        nn.ReLU(),
        nn.Conv2d(3, 5, 1),
        Doubled(7, 5),
        nn.MultiheadAttention(6, 2).out_proj,
        parametrizations.weight_norm(nn.Linear(7, 5)),
        nn.Bilinear(7, 5, 3),
    ],
    ids=lambda base: type(base).__name__,
)
def test_another_kind_of_layer_is_refused(base):
    message = f"base: expected nn.Linear, Conv1D or QuantizedLinear, got {type(base).__name__}"
    with pytest.raises(TypeError, match=message):
        LoRALinear(base, rank=1, alpha=1.0)
    assert all(p.requires_grad for p in base.parameters())


def test_a_subclass_that_only_adds_is_a_linear_layer():
    class Named(nn.Linear):
        title = "a name"

    assert LoRALinear(Named(7, 5), rank=2, alpha=4.0).out_features == 5


def test_dense_weight_is_outputs_by_inputs():
    linear, transposed = nn.Linear(7, 5), Conv1D(5, 7)
    assert dense_weight(linear) is linear.weight
    assert torch.equal(dense_weight(transposed), transposed.weight.T)


def test_wrong_width_is_an_error():
    with pytest.raises(RuntimeError):
        adapted()(torch.randn(11, 6, dtype=torch.float64))
