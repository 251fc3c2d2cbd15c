"""Attention beside the naive formula and PyTorch's own fused kernels; decoding beside a copy.

On a CPU, what training pays for in float32: the output and the gradients of q, k and v, for one
batch entry with 8 heads. On a GPU bfloat16, 4 batch entries with 32 heads, forward and backward
apart. There each peer is pinned: left to choose, PyTorch may time something else.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from companion.flash import flash_attention, flash_decode, naive_attention
from companion.flash.study.cost import attention_flops
from companion.measure.workload import Workload

__all__ = ["bar_of", "decoding", "pinned", "workloads"]

LENGTHS, HEADS, WIDTH = (64, 256, 512, 1024, 2048, 4096), 8, 64
# From this length on; below it both are told, and promised is nothing.
BARRED, NAIVE_BAR, SDPA_BAR = 1024, 3.0, 0.8
TOLERANCE = 1e-4  # of the largest entry, between two ways to sum in float32

GPU_LENGTHS, GPU_WIDTHS = (1024, 2048, 4096, 8192, 16384), (64, 128)
GPU_SHAPE = (4, 32)
DECODED_KEYS = (32768, 65536, 131072)
PEERS = {"SDPA-FLASH": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
# How many times as fast as the peer we mean to be, at least; the backward has no bar for cuDNN.
BARS = {
    ("forward", 64, "SDPA-FLASH"): 1.2,
    ("forward", 128, "SDPA-FLASH"): 1.15,
    ("forward", 64, "cuDNN"): 0.8,
    ("forward", 128, "cuDNN"): 0.7,
    ("backward", 64, "SDPA-FLASH"): 1.05,
    ("backward", 128, "SDPA-FLASH"): 1.05,
}
SHORT, SHORT_BAR = 1024, 0.8  # up to this length, where a call's fixed cost counts; SDPA-FLASH only
COPY_BAR = 0.7  # of the bandwidth of a copy, for decoding
GPU_TOLERANCE = 0.02  # ‖ours − exact‖ ÷ ‖exact‖ in bfloat16, whose rounding alone is 0.004

Attention = Callable[..., Tensor]
Run = Callable[[], Sequence[Tensor]]


def workloads(device: str) -> Iterable[Workload]:
    """On a GPU one setting at a time: its tensors are large, and go when the next is asked for."""
    return _on_a_gpu() if device == "cuda" else _on_a_cpu()


def _on_a_cpu() -> list[Workload]:
    peers = [
        ("naive_attention", partial(naive_attention, causal=True), NAIVE_BAR),
        ("PyTorch SDPA", partial(scaled_dot_product_attention, is_causal=True), SDPA_BAR),
    ]
    return [
        _training(length, name, attention, bar if length >= BARRED else None)
        for length in LENGTHS
        for name, attention, bar in peers
    ]


def _on_a_gpu() -> Iterator[Workload]:
    for width, length, causal in product(GPU_WIDTHS, GPU_LENGTHS, (False, True)):
        yield from pinned(length, width, causal=causal)
    yield from map(decoding, DECODED_KEYS)


def pinned(
    length: int,
    width: int,
    *,
    causal: bool,
    shape: tuple[int, int] = GPU_SHAPE,
    device: str = "cuda",
) -> Iterator[Workload]:
    """Forward, then backward, beside each peer in bfloat16.

    Args:
        length: N, of queries and keys.
        width: D.
        causal: Whether a query sees only the keys before it.
        shape: Batch entries and heads.
        device: Where.
    """
    q, k, v, grad_out = _normal(4, (*shape, length, width), device)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    exact = _exact(inputs, grad_out, causal)
    ours = partial(flash_attention, causal=causal)
    setting = f"N={length}, B{shape[0]} H{shape[1]} D{width}{' causal' if causal else ''}, "
    for direction, peer in product(("forward", "backward"), PEERS):
        backward = direction == "backward"
        run = partial(_backward, grad_out=grad_out) if backward else _forward
        theirs = _or_none(partial(run, partial(_sdpa, PEERS[peer], causal), inputs))
        yield Workload(
            name=f"flash_attention {setting}{direction}",
            peer=peer if theirs else f"{peer}, which has no kernel here",
            ours=run(ours, inputs),
            theirs=theirs or list,
            equal=partial(_near, exact[1:] if backward else exact[:1]),
            bar=bar_of(direction, width, length, peer),
            work=attention_flops(
                length, width, heads=shape[0] * shape[1], causal=causal, backward=backward
            ),
            work_unit="FLOP",
        )


def bar_of(direction: str, width: int, length: int, peer: str) -> float | None:
    """The least ratio that is promised on a GPU, if any."""
    if length > SHORT:
        return BARS.get((direction, width, peer))
    return SHORT_BAR if peer == "SDPA-FLASH" else None


def decoding(
    keys: int, *, shape: tuple[int, int, int, int] = (4, 32, 8, 128), device: str = "cuda"
) -> Workload:
    """One token against a cache, beside copying half of the cache: both move as many bytes.

    Args:
        keys: S, in the cache.
        shape: Batch entries, query heads, key heads, width.
        device: Where.
    """
    batch, heads, key_heads, width = shape
    (q,) = _normal(1, (batch, heads, width), device)
    k, v = _normal(2, (batch, key_heads, keys, width), device)
    exact = naive_attention(q.float()[:, :, None], k.float(), v.float())[:, :, 0]
    copy = torch.empty_like(k)
    return Workload(
        name=f"flash_decode S={keys}, B{batch} H{heads} G{key_heads} D{width}",
        peer="copy of as many bytes",
        ours=lambda: flash_decode(q, k, v),
        theirs=lambda: copy.copy_(k),
        equal=lambda out, copied: _relative_error(out, exact) <= GPU_TOLERANCE and copied.equal(k),
        bar=COPY_BAR,
        work=k.nbytes + v.nbytes,
        work_unit="B",
    )


def _training(length: int, peer: str, attention: Attention, bar: float | None) -> Workload:
    """The output, and the gradients of Σ out · grad_out."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad_out = (
        torch.randn(1, HEADS, length, WIDTH, generator=generator) for _ in range(4)
    )
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def call(attention: Attention) -> Run:
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
        bar=bar,
    )


def _close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Equal to four digits of the largest entry."""
    return len(ours) == len(theirs) and all(
        bool((a - b).abs().max() <= TOLERANCE * b.abs().max())
        for a, b in zip(ours, theirs, strict=True)
    )


def _normal(count: int, shape: tuple[int, ...], device: str) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    setting = {"generator": generator, "device": device, "dtype": torch.bfloat16}
    return [torch.randn(shape, **setting) for _ in range(count)]


def _forward(attention: Attention, inputs: Sequence[Tensor]) -> Run:
    @torch.no_grad()
    def run() -> list[Tensor]:
        return [attention(*inputs)]

    return run


def _backward(attention: Attention, inputs: Sequence[Tensor], *, grad_out: Tensor) -> Run:
    out = attention(*inputs)
    return lambda: torch.autograd.grad(out, inputs, grad_out, retain_graph=True)


def _sdpa(backend: SDPBackend, causal: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v, is_causal=causal)


def _or_none(make: Callable[[], Run]) -> Run | None:
    """None where PyTorch has no such kernel for this machine."""
    try:
        run = make()
        run()
    except RuntimeError:
        return None
    return run


def _exact(inputs: Sequence[Tensor], grad_out: Tensor, causal: bool) -> list[Tensor]:
    """Output and gradients in float32, of the first head and of the last: for all, memory ends."""
    ends = []
    for at in (0, -1):
        wide = [x.detach()[at, at][None, None].float().requires_grad_() for x in inputs]
        out = naive_attention(*wide, causal=causal)
        grads = torch.autograd.grad(out, wide, grad_out[at, at][None, None].float())
        ends.append([out.detach(), *grads])
    return [torch.cat(pair)[:, 0] for pair in zip(*ends, strict=True)]


def _near(exact: Sequence[Tensor], ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether each result of both sides errs no more than bfloat16 makes it."""
    return all(
        len(results) == len(exact)
        and all(
            _relative_error(torch.stack([result[0, 0], result[-1, -1]]), truth) <= GPU_TOLERANCE
            for result, truth in zip(results, exact, strict=True)
        )
        for results in (ours, theirs)
    )


def _relative_error(found: Tensor, exact: Tensor) -> float:
    return ((found.float() - exact).norm() / exact.norm()).item()
