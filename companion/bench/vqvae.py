"""A codebook of moving averages beside vector-quantize-pytorch, the nearest code beside cdist.

Both codebooks learn from the same batch at every call, so the work stays what it is. Results and
codes are compared after the first call, when both come from the same codes.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from companion.measure.peak_memory import peak_bytes
from companion.measure.workload import Workload
from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.nearest import nearest_code

__all__ = ["workloads"]

LEARNING = (4096, 1024, 64)  # vectors, codes, width
BAR = 2.0
MANY = (65_536, 16_384, 8)
CUDA, CUDA_BAR = (65_536, 16_384, 256), 1.5


def workloads(device: str) -> Iterator[Workload]:
    """A training step, without and with its gradient; nearest codes, few and many."""
    yield learning(*LEARNING, device, bar=BAR)
    yield learning(*LEARNING, device, bar=BAR, backward=True)
    yield nearest(*LEARNING, device)
    if device == "cuda":
        yield nearest(*CUDA, device, bar=CUDA_BAR)
    yield nearest(*MANY, device)


def learning(
    n: int, k: int, d: int, device: str, *, bar: float | None = None, backward: bool = False
) -> Workload:
    """Codes, loss and the update of the codebook; with ``backward`` also the vectors' gradient."""
    z_ND, codes_KD, upstream_ND = _normal(n, k, n, width=d, device=device)
    ours, theirs = EMAVectorQuantizer(k, d), _peer(codes_KD)
    ours.codebook.copy_(codes_KD)
    ours.embed_avg.copy_(codes_KD)
    ours.to(device)
    z_ND.requires_grad_()
    name = "forward + backward" if backward else "forward"
    weights = upstream_ND if backward else None
    return Workload(
        name=f"EMAVectorQuantizer N={n}, K={k}, D={d}, {name}, learning",
        peer="VectorQuantize, no rotation trick",
        ours=_step(ours, lambda: ours.codebook, z_ND, weights),
        theirs=_step(theirs, lambda: theirs.codebook, z_ND, weights),
        equal=_close,
        bar=bar,
    )


def nearest(n: int, k: int, d: int, device: str, *, bar: float | None = None) -> Workload:
    """The name says what our call allocates; the peer's matrix alone has N·K numbers."""
    z_ND, codes_KD = _normal(n, k, width=d, device=device)
    peak_MiB = peak_bytes(lambda: nearest_code(z_ND, codes_KD), device=device) / 2**20

    def as_near(ours_N: Tensor, theirs_N: Tensor) -> bool:
        # In float64, since rounding may decide between codes that are almost equally near.
        ours, theirs = (
            (z_ND.double() - codes_KD[index_N].double()).square().sum(1)
            for index_N in (ours_N, theirs_N)
        )
        return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    return Workload(
        name=f"nearest_code N={n}, K={k}, D={d} (peak {peak_MiB:.0f} MiB)",
        peer=f"torch.cdist, argmin ({n * k * 4 / 2**20:.0f} MiB)",
        ours=lambda: nearest_code(z_ND, codes_KD),
        theirs=lambda: torch.cdist(z_ND, codes_KD).argmin(1),
        equal=as_near,
        bar=bar,
    )


def _peer(codes_KD: Tensor) -> VectorQuantize:
    k, d = codes_KD.shape
    peer = VectorQuantize(
        dim=d,
        codebook_size=k,
        decay=0.99,
        commitment_weight=0.25,
        rotation_trick=False,
    )
    peer._codebook.embed.copy_(codes_KD)
    peer._codebook.embed_avg.copy_(codes_KD)
    return peer.to(codes_KD.device)


def _step(
    quantizer: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    codebook: Callable[[], Tensor],
    z_ND: Tensor,
    upstream_ND: Tensor | None,
) -> Callable[[], tuple[Tensor, ...]]:
    def run() -> tuple[Tensor, ...]:
        z_q, indices, loss = quantizer(z_ND)
        if upstream_ND is None:
            return codebook(), indices, z_q.detach(), loss.detach()
        both, weights = (z_q, loss), (upstream_ND, torch.ones_like(loss))
        return codebook(), indices, *torch.autograd.grad(both, z_ND, weights)

    return run


def _close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in pairs)


def _normal(*counts: int, width: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, width, generator=generator).to(device) for n in counts]
