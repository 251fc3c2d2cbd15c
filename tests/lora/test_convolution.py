"""LoRAConv2d by hand, against the dense kernel, and against PEFT."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from companion.lora import LoRAConv2d, add_lora
from tests.lora.peft_oracle import assert_same_gradient, peft_twin, randomise_, seeded

# PEFT's A knows no dilation and no padding mode: there the dense kernel alone is the oracle.
GEOMETRY = [
    {},
    {"stride": 2},
    {"stride": (1, 2), "padding": (2, 1)},
    {"padding": 2, "bias": False},
    {"padding": "same"},
    {"padding": "valid"},
]
ONLY_OURS = [
    {"dilation": (1, 2)},
    {"dilation": 2, "padding": "same"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (2, 1), "padding_mode": "circular", "stride": 2},
    {"padding": "same", "padding_mode": "replicate", "dilation": (2, 1)},
]


def convolution(dtype=torch.float64, kernel=(3, 5), inputs=3, outputs=7, **geometry):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(inputs, outputs, kernel, dtype=dtype, **geometry)


def adapted(dtype=torch.float64, rank=2, alpha=6.0, scaling="alpha/r", dropout=0.0, **geometry):
    base = convolution(dtype, **geometry)
    layer = LoRAConv2d(base, rank=rank, alpha=alpha, scaling=scaling, dropout=dropout)
    return randomise_(layer)


def images(*batch, channels=3, dtype=torch.float64):
    return torch.randn(*batch, channels, 11, 13, generator=seeded(2), dtype=dtype)


def same_layer(layer, kernel):
    """The base's convolution with another kernel, by PyTorch itself."""
    dense = copy.deepcopy(layer.base)
    with torch.no_grad():
        dense.weight.copy_(kernel)
    return dense


def test_one_pixel_by_hand():
    base = nn.Conv2d(2, 1, 1, bias=False)
    layer = LoRAConv2d(base, rank=1, alpha=3.0)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1))
        layer.a_RIKK.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
        layer.b_OR11.fill_(2.0)
    # 1·5 + 2·7 = 19, and 3·2·(5 − 7) = −12.
    assert layer(torch.tensor([5.0, 7.0]).view(1, 2, 1, 1)).item() == 7.0


@pytest.mark.parametrize("batch", [(2,), (), (0,)])
@pytest.mark.parametrize("scaling", ["alpha/r", "alpha/sqrt(r)"])
@pytest.mark.parametrize("geometry", GEOMETRY + ONLY_OURS, ids=str)
def test_is_the_dense_kernel(geometry, scaling, batch, device):
    layer = adapted(scaling=scaling, **geometry).to(device)
    scale = 3.0 if scaling == "alpha/r" else 6 / 2**0.5
    kernel = torch.einsum("or,rihw->oihw", layer.b_OR11[:, :, 0, 0], layer.a_RIKK)
    kernel = layer.base.weight + scale * kernel
    x = images(*batch).to(device)
    torch.testing.assert_close(layer(x), same_layer(layer, kernel)(x))
    torch.testing.assert_close(layer.weight, kernel)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRY, ids=str)
def test_same_as_peft(geometry, rslora):
    base = nn.Sequential(convolution(torch.float32, **geometry))
    variant = "rslora" if rslora else "lora"
    ours = add_lora(copy.deepcopy(base), targets=["0"], rank=2, alpha=6.0, variant=variant)
    randomise_(ours)
    theirs = peft_twin(base, ours, target_modules=["0"], r=2, lora_alpha=6, use_rslora=rslora)
    x = images(2, dtype=torch.float32)
    outputs = ours(x), theirs(x)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    for y in outputs:
        y.square().sum().backward()
    twin = theirs.base_model.model[0]
    for factor, peer in zip(ours[0].adapter_parameters(), (twin.lora_A, twin.lora_B), strict=True):
        assert_same_gradient(factor, peer["default"].weight)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")
def test_groups_are_pefts():
    base = nn.Sequential(convolution(torch.float32, inputs=6, outputs=9, groups=3, padding=1))
    ours = randomise_(add_lora(copy.deepcopy(base), targets=["0"], rank=6, alpha=6.0))
    assert ours[0].a_RIKK.shape == (6, 6, 3, 5)
    assert ours[0].b_OR11.shape == (9, 2, 1, 1)
    theirs = peft_twin(base, ours, target_modules=["0"], r=6, lora_alpha=6)
    x = images(2, channels=6, dtype=torch.float32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_groups_cannot_be_written_as_one_kernel():
    layer = adapted(rank=4, inputs=6, outputs=8, groups=2)
    with pytest.raises(ValueError, match=r"expected groups=1 .* got groups=2"):
        layer.delta()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_new_layer_is_its_base_exactly(dtype, device):
    base = convolution(dtype, padding=1).to(device)
    layer = LoRAConv2d(base, rank=2, alpha=6.0)
    x = images(2, dtype=dtype).to(device)
    assert torch.equal(layer(x), base(x))
    assert layer(x).dtype == dtype
    assert layer.a_RIKK.dtype == layer.b_OR11.dtype == torch.float32


def test_first_and_second_derivatives():
    layer = adapted(kernel=(1, 2), padding=(0, 1), inputs=2, outputs=3)

    def call(x, a, b):
        return torch.func.functional_call(layer, {"a_RIKK": a, "b_OR11": b}, (x,))

    tensors = [images(1, channels=2)[..., :2, :3], *layer.adapter_parameters()]
    inputs = [t.detach().clone().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_dropout_zeroes_inputs_of_the_update_alone():
    layer = LoRAConv2d(nn.Conv2d(3, 3, 1), rank=3, alpha=3.0, dropout=0.4)
    with torch.no_grad():
        layer.a_RIKK.copy_(torch.eye(3).view(3, 3, 1, 1))
        layer.b_OR11.copy_(torch.eye(3).view(3, 3, 1, 1))
    x = 1 + torch.rand(50, 3, 7, 5, generator=seeded())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        update = (layer.train()(x) - layer.base(x)).detach()
    kept = update.abs() > 1e-3
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.03)
    torch.testing.assert_close(update[kept], x[kept] / 0.6, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.eval()(x), layer.base(x) + x)


def test_a_is_uniform_and_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    base = convolution(inputs=40, outputs=70)
    one, same, other = (
        LoRAConv2d(base, rank=64, alpha=1.0, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.a_RIKK, same.a_RIKK)
    assert not torch.equal(one.a_RIKK, other.a_RIKK)
    fan_in = 40 * 3 * 5
    assert one.a_RIKK.var().item() == pytest.approx(1 / (3 * fan_in), rel=0.03)
    assert one.a_RIKK.square().max() <= 1 / fan_in


def test_what_is_trained():
    layer = adapted()
    trained = {name: p.numel() for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == {"a_RIKK": 2 * 3 * 3 * 5, "b_OR11": 7 * 2}
    assert (layer.in_channels, layer.out_channels, layer.bias.shape) == (3, 7, (7,))


def test_compiled_in_one_graph(device):
    layer = adapted(stride=2).to(device)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = images(2).to(device)
    torch.testing.assert_close(compiled(x), layer(x))


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "base",
    [
        nn.Conv1d(3, 7, 5),
        nn.ConvTranspose2d(3, 7, 5),
        Doubled(3, 7, 5),
        parametrizations.weight_norm(nn.Conv2d(3, 7, 5)),
    ],
    ids=lambda base: type(base).__name__,
)
def test_another_kind_of_layer_is_refused(base):
    with pytest.raises(TypeError, match=f"expected nn.Conv2d, got {type(base).__name__}"):
        LoRAConv2d(base, rank=2, alpha=4.0)


@pytest.mark.parametrize(
    ("geometry", "rank", "message"),
    [
        ({}, 0, r"rank must be in \[1, 7\], got 0"),
        ({}, 8, r"rank must be in \[1, 7\], got 8"),
        ({"kernel": 1, "inputs": 2}, 3, r"rank must be in \[1, 2\], got 3"),
        ({"inputs": 6, "outputs": 9, "groups": 3}, 4, "multiple of groups=3, got 4"),
    ],
)
def test_impossible_ranks(geometry, rank, message):
    base = convolution(**geometry)
    with pytest.raises(ValueError, match=message):
        LoRAConv2d(base, rank=rank, alpha=4.0)
    assert base.weight.requires_grad


def test_functional_conv_agrees_with_the_modules_own_padding():
    """The oracle above is nn.Conv2d; here PyTorch's function, on the zeros that it pads with."""
    layer = adapted(padding=(1, 2))
    x = images(2)
    padded = F.pad(x, (2, 2, 1, 1))
    expected = F.conv2d(padded, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)
