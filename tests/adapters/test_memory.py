"""The memory of training: by hand, the quoted figures, and bytes counted on models that train."""

import math

import pytest
import torch
from torch import nn

from companion.adapters import MemoryReport, training_memory
from companion.adapters.memory import NF4_BITS
from companion.lora.four_bit.nf4 import nf4_quantize
from companion.lora.four_bit.quantized import QuantizedLinear
from companion.lora.linear import LoRALinear

GB = 1e9
CARD = 80 * GB


def terms(report):
    return (
        report.weights,
        report.gradients,
        report.optimizer_states,
        report.master_weights,
        report.activations,
    )


# By hand


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # bytes of weights, gradients, states, master weights for 1000 parameters
        ({"weight_dtype": torch.float32}, (4000, 4000, 8000, 0)),
        ({"weight_dtype": torch.bfloat16}, (2000, 2000, 8000, 4000)),
        ({"weight_dtype": torch.float16}, (2000, 2000, 8000, 4000)),
        ({"weight_dtype": torch.float64}, (8000, 8000, 16000, 0)),
        ({"weight_dtype": torch.bfloat16, "master_weights": False}, (2000, 2000, 4000, 0)),
        ({"weight_dtype": torch.float32, "master_weights": False}, (4000, 4000, 8000, 0)),
        ({"weight_dtype": torch.bfloat16, "optimizer": "adam"}, (2000, 2000, 8000, 4000)),
        ({"weight_dtype": torch.bfloat16, "optimizer": "sgd"}, (2000, 2000, 0, 4000)),
        ({"weight_dtype": torch.float32, "optimizer": "sgd-momentum"}, (4000, 4000, 4000, 0)),
        # 30 parameters train
        ({"weight_dtype": torch.bfloat16, "trainable_fraction": 0.03}, (2000, 60, 240, 120)),
        ({"weight_dtype": torch.bfloat16, "trainable_fraction": 0.0}, (2000, 0, 0, 0)),
        (
            {
                "weight_dtype": torch.bfloat16,
                "trainable_fraction": 0.03,
                "trainable_dtype": torch.float32,
            },
            (970 * 2 + 120, 120, 240, 0),
        ),
        # 970 in four bits and scales, 500.4 bytes; 30 in float32
        ({"weight_dtype": "nf4", "trainable_fraction": 0.03}, (501 + 120, 120, 240, 0)),
        ({"weight_dtype": "nf4", "trainable_fraction": 0.0}, (516, 0, 0, 0)),
        ({"weight_dtype": torch.int8, "trainable_fraction": 0.03}, (970 + 120, 120, 240, 0)),
    ],
)
def test_each_term_by_hand(settings, expected):
    report = training_memory(1000, activations_bytes=77, **settings)
    assert terms(report) == (*expected, 77)
    assert report.total == sum(expected) + 77


def test_what_four_bits_take_is_what_they_are_measured_to_take():
    weight = torch.ones(256, 64 * 64)
    quantized = nf4_quantize(weight)
    report = training_memory(weight.numel(), weight_dtype="nf4", trainable_fraction=0)
    assert report.weights == quantized.bytes - 4  # the mean of the scales: one number for a tensor
    assert round(NF4_BITS, 3) == 4.127


def test_a_fraction_that_rounding_puts_below_a_whole_number():
    assert 100 * 0.57 < 57
    report = training_memory(100, weight_dtype=torch.float32, trainable_fraction=0.57)
    assert (report.weights, report.gradients) == (400, 228)


def test_shards_share_and_round_up():
    whole = training_memory(1001, weight_dtype=torch.float32, activations_bytes=10)
    assert whole.total == whole.per_device == 16 * 1001 + 10
    shared = training_memory(1001, weight_dtype=torch.float32, activations_bytes=10, shards=5)
    assert shared.total == whole.total
    assert shared.per_device == math.ceil((16 * 1001 + 10) / 5) == 3206
    assert shared.devices(3206) == 5
    assert shared.devices(3205) == 6


def test_devices_by_hand():
    report = MemoryReport(100, 20, 30, 5, activations=5)
    assert report.total == 160
    assert [report.devices(size) for size in (160, 80, 79, 1e9)] == [1, 2, 3, 1]
    assert MemoryReport(0, 0, 0, 0, 0).devices(80) == 1


# The quoted figures


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("parameters", "states_gb", "activations_gb", "quoted_gb", "cards"),
    [(7e9, 112, 48, 160, 2), (72e9, 1152, 448, 1600, 20)],
)
def test_the_figures_that_are_quoted(
    parameters, states_gb, activations_gb, quoted_gb, cards, weight_dtype
):
    # 16 bytes a parameter, in mixed precision as in float32 alone; activations fill the cards.
    bare = training_memory(parameters, weight_dtype=weight_dtype)
    assert bare.total == states_gb * GB
    assert 0.69 < bare.total / (cards * CARD) < 0.73
    full = training_memory(
        parameters, weight_dtype=weight_dtype, activations_bytes=activations_gb * GB, shards=cards
    )
    assert full.total == quoted_gb * GB
    assert full.devices(CARD) == cards
    assert full.per_device == CARD


def test_what_training_three_percent_changes():
    # The question of the chapter: 7B in bfloat16, 3% trained with float32 states.
    report = training_memory(7e9, weight_dtype=torch.bfloat16, trainable_fraction=0.03)
    assert report.total == 14 * GB + 0.21 * 14 * GB
    assert report.devices(CARD) == 1
    full = training_memory(7e9, weight_dtype=torch.bfloat16)
    assert full.devices(CARD) == 2


def test_the_published_figures_for_65b():
    # Dettmers et al. 2023, §1: more than 780 GB in 16 bits, less than 48 GB with QLoRA; and
    # §2: adapters of 0.2% of the weights.
    sixteen_bits = training_memory(65e9, weight_dtype=torch.bfloat16)
    assert sixteen_bits.total - sixteen_bits.master_weights == 780 * GB
    adapters = 0.002 * 65e9
    report = training_memory(
        65e9 + adapters, weight_dtype="nf4", trainable_fraction=adapters / (65e9 + adapters)
    )
    assert 35 * GB < report.total < 36 * GB


# Counted on models


def nbytes(tensors):
    """Bytes of the tensors, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def states(optimizer):
    return [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if torch.is_tensor(value) and name != "step"
    ]


def count(model):
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return sum(p.numel() for p in model.parameters()), trained


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3),
}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_step_measured(optimizer, dtype):
    model = nn.Sequential(nn.Linear(37, 101), nn.GELU(), nn.Linear(101, 53)).to(dtype)
    stepper = OPTIMIZERS[optimizer](model.parameters())
    saved = {}

    def save(tensor):
        if not isinstance(tensor, nn.Parameter) and tensor._base is None:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = torch.randn(19, 37, dtype=dtype)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = model(x).square().sum()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(t.nbytes for address, t in saved.items() if address not in parameters)
    loss.backward()
    stepper.step()
    total, _ = count(model)
    report = training_memory(
        total,
        weight_dtype=dtype,
        optimizer=optimizer,
        master_weights=False,
        activations_bytes=activations,
    )
    gradients = [p.grad for p in model.parameters()]
    assert report.weights == nbytes(model.parameters())
    assert report.gradients == nbytes(gradients)
    assert report.optimizer_states == nbytes(states(stepper))
    assert report.master_weights == 0
    # x, the layers' outputs before and after GELU, and what is squared: all of it, by hand
    assert activations == dtype.itemsize * 19 * (37 + 101 + 101 + 53)
    every = [t for s in stepper.state.values() for t in s.values() if torch.is_tensor(t)]
    measured = nbytes([*model.parameters(), *gradients, *every]) + activations
    assert abs(report.total / measured - 1) < 0.01  # the optimizer's step counts


def test_mixed_precision_with_master_weights_measured():
    model = nn.Sequential(nn.Linear(37, 101), nn.GELU(), nn.Linear(101, 53)).bfloat16()
    masters = [p.detach().float().clone().requires_grad_() for p in model.parameters()]
    stepper = torch.optim.AdamW(masters)
    model(torch.randn(19, 37, dtype=torch.bfloat16)).square().sum().backward()
    for master, parameter in zip(masters, model.parameters(), strict=True):
        master.grad = parameter.grad.float()
    stepper.step()
    report = training_memory(count(model)[0], weight_dtype=torch.bfloat16)
    assert report.weights == nbytes(model.parameters())
    assert report.gradients == nbytes([p.grad for p in model.parameters()])
    assert report.master_weights == nbytes(masters)
    assert report.optimizer_states == nbytes(states(stepper))
    assert report.total == 16 * count(model)[0]


def test_lora_on_a_bfloat16_base_measured():
    base = nn.Linear(101, 67, bias=False).bfloat16()
    model = LoRALinear(base, rank=3, alpha=6.0)
    stepper = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(torch.randn(19, 101, dtype=torch.bfloat16)).square().sum().backward()
    stepper.step()
    total, trained = count(model)
    assert trained == 3 * (101 + 67)
    report = training_memory(
        total,
        weight_dtype=torch.bfloat16,
        trainable_fraction=trained / total,
        trainable_dtype=torch.float32,
    )
    assert report.weights == nbytes(model.parameters())
    assert report.gradients == nbytes([p.grad for p in model.parameters() if p.requires_grad])
    assert report.optimizer_states == nbytes(states(stepper))
    assert report.master_weights == 0


def test_qlora_measured():
    layers = [nn.Linear(256, 512, bias=False), nn.Linear(512, 128, bias=False)]
    layers = [LoRALinear(QuantizedLinear(layer), rank=2, alpha=4.0) for layer in layers]
    model = nn.Sequential(*layers)
    stepper = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(torch.randn(19, 256)).square().sum().backward()
    stepper.step()
    _, trained = count(model)
    assert trained == 2 * (256 + 512) + 2 * (512 + 128)
    total = 256 * 512 + 512 * 128 + trained
    report = training_memory(total, weight_dtype="nf4", trainable_fraction=trained / total)
    bases = sum(layer.base.quantized.bytes for layer in layers)
    weights = bases + nbytes(p for p in model.parameters() if p.requires_grad)
    assert abs(report.weights - weights) <= 2 * 4 + 1  # the mean of the scales of each layer
    gradients = nbytes([p.grad for p in model.parameters() if p.requires_grad])
    assert report.gradients == gradients
    assert report.optimizer_states == nbytes(states(stepper))
    # With all that the modules hold (their tables of codes too), and the step counts.
    every = [t for s in stepper.state.values() for t in s.values() if torch.is_tensor(t)]
    held = nbytes([*model.parameters(), *model.buffers(), *every]) + gradients
    assert abs(report.total / held - 1) < 0.1


# What is refused


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_parameters": 0}, ValueError, "num_parameters: expected a whole number >= 1, got 0"),
        ({"num_parameters": 7.5}, ValueError, r"expected a whole number >= 1, got 7\.5"),
        ({"num_parameters": math.inf}, ValueError, "expected a whole number >= 1, got inf"),
        ({"num_parameters": math.nan}, ValueError, "expected a whole number >= 1, got nan"),
        ({"weight_dtype": "int4"}, TypeError, r"expected a torch\.dtype or 'nf4', got 'int4'"),
        (
            {"trainable_dtype": torch.int8},
            TypeError,
            r"trainable_dtype: expected floating point, got torch\.int8",
        ),
        (
            {"optimizer": "adafactor"},
            ValueError,
            "expected one of adamw, adam, sgd-momentum, sgd; got 'adafactor'",
        ),
        (
            {"trainable_fraction": 1.01},
            ValueError,
            r"trainable_fraction: expected 0 to 1, got 1\.01",
        ),
        (
            {"trainable_fraction": -0.1},
            ValueError,
            r"trainable_fraction: expected 0 to 1, got -0\.1",
        ),
        (
            {"activations_bytes": -1},
            ValueError,
            "activations_bytes: expected a number >= 0, got -1",
        ),
        ({"shards": 0}, ValueError, "shards: expected at least 1, got 0"),
    ],
)
def test_what_is_refused(settings, error, message):
    settings = {"num_parameters": 10, "weight_dtype": torch.float32} | settings
    with pytest.raises(error, match=message):
        training_memory(**settings)


def test_a_device_without_memory():
    for size in (0, -80, math.nan):
        with pytest.raises(ValueError, match=f"device_bytes: expected more than 0, got {size}"):
            MemoryReport(1, 0, 0, 0, 0).devices(size)
