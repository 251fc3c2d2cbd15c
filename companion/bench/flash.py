"""Attention beside the naive formula and PyTorch's own fused kernel, forward and backward.

One batch entry, 8 heads of width 64, causal. Measured is what training pays for: the output and
the gradients of q, k and v. On a GPU bfloat16, elsewhere float32; the measurements of a GPU with
its back ends pinned are those of `python -m companion.flash.gpu`.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from companion.flash import flash_attention, naive_attention
from companion.measure.workload import Workload

__all__ = ["workloads"]

HEADS, WIDTH = 8, 64
LENGTHS = (1024, 2048, 4096)
NAIVE_BAR, SDPA_BAR = 3.0, 0.8
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def workloads(device: str) -> list[Workload]:
    """Both peers at each length; the bars are for a CPU."""
    peers = [
        ("naive_attention", partial(naive_attention, causal=True), NAIVE_BAR),
        ("PyTorch SDPA", partial(F.scaled_dot_product_attention, is_causal=True), SDPA_BAR),
    ]
    return [_training(length, *peer, device) for length in LENGTHS for peer in peers]


def _training(
    length: int, peer: str, attention: Callable[..., Tensor], bar: float, device: str
) -> Workload:
    """The output, and the gradients of Σ out · grad_out."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad_out = (
        torch.randn(1, HEADS, length, WIDTH, generator=generator).to(device, dtype)
        for _ in range(4)
    )
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def call(attention: Callable[..., Tensor]) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            out = attention(*inputs)
            return [out.detach(), *torch.autograd.grad(out, inputs, grad_out)]

        return run

    return Workload(
        name=f"flash_attention N={length}, B1 H{HEADS} D{WIDTH} causal, forward + backward",
        peer=peer,
        ours=call(partial(flash_attention, causal=True)),
        theirs=call(attention),
        equal=_close,
        bar=bar if device == "cpu" else None,
    )


def _close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Equal to four digits of the largest entry in float32, to two in bfloat16."""
    return len(ours) == len(theirs) and all(
        bool((a - b).abs().max() <= TOLERANCE[b.dtype] * b.abs().max())
        for a, b in zip(ours, theirs, strict=True)
    )
