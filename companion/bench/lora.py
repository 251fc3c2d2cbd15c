"""LoRA beside PEFT: one adapted layer of GPT-2's width, forward and backward.

What is measured is the overhead: the time of the adapted layer minus that of the frozen layer
inside it, which both sides call.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from companion.lora import DoRALinear, LoRALinear
from companion.measure.workload import Workload

__all__ = ["workloads"]

FEATURES, TOKENS, RANK, ALPHA = 768, 4096, 8, 16.0


def workloads(device: str) -> list[Workload]:
    """LoRA and DoRA; the bar is an overhead of at most 0.8 times PEFT's."""
    return [
        _training(LoRALinear, device, bar=1.25),
        _training(LoRALinear, device, whole=True),
        _training(DoRALinear, device, bar=1.25),
    ]


def _training(
    kind: type[LoRALinear], device: str, *, bar: float | None = None, whole: bool = False
) -> Workload:
    """∂L/∂x, ∂L/∂A, ∂L/∂B (and ∂L/∂m) of a layer whose factors are not zero."""
    generator = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(TOKENS, FEATURES, generator=generator).to(device) for _ in range(2))
    x.requires_grad_()
    base = nn.utils.skip_init(nn.Linear, FEATURES, FEATURES)
    for parameter in base.parameters():
        nn.init.normal_(parameter, std=0.02, generator=generator)
    ours = kind(base, rank=RANK, alpha=ALPHA, generator=generator)
    nn.init.normal_(ours.b_OR, std=0.02, generator=generator)
    ours.to(device)
    theirs = _peft(ours)
    peers = [theirs.lora_A, theirs.lora_B, theirs.lora_magnitude_vector]
    return Workload(
        name=f"{kind.__name__} {FEATURES}→{FEATURES}, {TOKENS} tokens, r={RANK}, "
        f"forward + backward{', whole call' if whole else ''}",
        peer="PEFT",
        ours=_call(ours, x, ours.adapter_parameters(), grad_y),
        theirs=_call(theirs, x, [p["default"].weight for p in peers if len(p)], grad_y),
        equal=_close,
        bar=bar,
        baseline=None if whole else _call(base, x, (), grad_y),
    )


def _peft(ours: LoRALinear) -> nn.Module:
    """PEFT's layer on a copy of the same base, with the same factors."""
    config = LoraConfig(
        target_modules=["0"], r=RANK, lora_alpha=ALPHA, use_dora=isinstance(ours, DoRALinear)
    )
    layer = get_peft_model(nn.Sequential(copy.deepcopy(ours.base)), config).base_model.model[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(ours.a_RI)
        layer.lora_B["default"].weight.copy_(ours.b_OR)
    return layer


def _call(
    layer: nn.Module, x: Tensor, parameters: Iterable[nn.Parameter], grad_y: Tensor
) -> Callable[[], list[Tensor]]:
    """The output, and the gradients of Σ output · grad_y."""
    inputs = [x, *parameters]

    def run() -> list[Tensor]:
        y = layer(x)
        return [y.detach(), *torch.autograd.grad(y, inputs, grad_y)]

    return run


def _close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Equal to four digits of the largest entry: float32, summed in another order."""
    return len(ours) == len(theirs) and all(
        bool((a - b).abs().max() <= 1e-4 * b.abs().max()) for a, b in zip(ours, theirs, strict=True)
    )
