"""A scaler's step beside PyTorch's, rounding beside PyTorch's casts, master weights beside FP32.

The models of both sides hold the same numbers and get the same gradients, which stay finite.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from companion.measure.workload import Workload
from companion.precision import BF16, E4M3, E5M2, FP16, TF32, LossScaler, MasterWeights

__all__ = ["workloads"]

# As a small transformer's: 12 layers of two matrices and their biases, an embedding and a head.
SHAPES = [(128, 96), (96,), (192, 128), (192,)] * 12 + [(4096, 128), (128, 512)]
ROUNDED = 10**7
STEP_BAR, ROUND_BAR = 0.84, 0.34  # at most 1.2 and 3 times the time
FORMATS = {"BF16": BF16, "FP16": FP16, "TF32": TF32, "E4M3": E4M3, "E5M2": E5M2}
CASTS = {
    "FP16": torch.float16,
    "E4M3": torch.float8_e4m3fn,
    "E5M2": torch.float8_e5m2,
}


def workloads(device: str) -> Iterator[Workload]:
    """A step of the scaler, rounding to five formats, a step of AdamW in 16 and in 32 bits."""
    yield scaler_step(device, SHAPES, bar=STEP_BAR)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROUNDED, generator=generator).to(device)
    for name in FORMATS:
        yield rounding(name, values, bar=ROUND_BAR if name == "BF16" else None)
    yield master_step(device, SHAPES)


def scaler_step(device: str, shapes: list[tuple[int, ...]], *, bar: float | None) -> Workload:
    """unscale_, step and update, where s stays 1: gradients and weights stay what they are."""
    never = 10**9
    ours = LossScaler(init_scale=1.0, growth_interval=never)
    theirs = torch.amp.GradScaler(device, init_scale=1.0, growth_interval=never)
    theirs.scale(torch.ones((), device=device))  # its state is made in the first call
    sides = [_model(shapes, device) for _ in range(2)]
    return Workload(
        name=f"unscale_ + step + update, {_size(shapes)}, SGD with lr 0",
        peer="torch.amp.GradScaler",
        ours=_scaled(ours, sides[0]),
        theirs=_scaled(theirs, sides[1]),
        equal=lambda mine, peers: _same(mine, peers) and ours.value == theirs.get_scale(),
        bar=bar,
    )


def rounding(name: str, values: Tensor, *, bar: float | None = None) -> Workload:
    """``FloatFormat.round`` beside a cast there and back; TF32, which has none, beside BF16's."""
    fmt, dtype = FORMATS[name], CASTS.get(name, torch.bfloat16)
    return Workload(
        name=f"round {len(values):.0e} float32 numbers to {name}",
        peer=f"x.to({dtype}).float()",
        ours=lambda: fmt.round(values),
        theirs=lambda: values.to(dtype).float(),
        equal=lambda ours, theirs: (
            torch.equal(ours, fmt.decode(fmt.encode(values)).float())
            and (name == "TF32" or torch.equal(ours, theirs))
        ),
        bar=bar,
    )


def master_step(device: str, shapes: list[tuple[int, ...]]) -> Workload:
    """AdamW over 32-bit copies of bfloat16 weights, rounded back, beside plain AdamW."""
    short, plain = _model(shapes, device, torch.bfloat16), _model(shapes, device, torch.bfloat16)
    plain = [nn.Parameter(weight.detach().float()) for weight in plain]
    options = {"lr": 1e-3, "weight_decay": 0.1}
    masters = MasterWeights(torch.optim.AdamW, short, **options)
    return Workload(
        name=f"MasterWeights(AdamW) step, {_size(shapes)} in BF16",
        peer="AdamW in FP32",
        ours=_stepped(masters, short, masters.masters),
        theirs=_stepped(torch.optim.AdamW(plain, **options), plain, plain),
        equal=_same,
    )


def _scaled(
    scaler: LossScaler | torch.amp.GradScaler, weights: list[Tensor]
) -> Callable[[], list[Tensor]]:
    optimizer = torch.optim.SGD(weights, lr=0.0)
    gradients = _gradients(weights)

    def run() -> list[Tensor]:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        return [*gradients, *weights]

    return run


def _stepped(
    optimizer: Optimizer, weights: list[Tensor], result: list[Tensor]
) -> Callable[[], list[Tensor]]:
    gradients = _gradients(weights)

    def run() -> list[Tensor]:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        return result

    return run


def _model(
    shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = (torch.randn(shape, generator=generator) for shape in shapes)
    return [nn.Parameter(weight.to(device, dtype)) for weight in drawn]


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    """As bfloat16 holds them."""
    generator = torch.Generator().manual_seed(2)
    drawn = (torch.randn(weight.shape, generator=generator) for weight in weights)
    return [gradient.bfloat16().to(weight) for gradient, weight in zip(drawn, weights, strict=True)]


def _size(shapes: list[tuple[int, ...]]) -> str:
    numbers = sum(math.prod(shape) for shape in shapes)
    return f"{len(shapes)} tensors, {numbers / 1e6:.2g}M numbers"


def _same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
