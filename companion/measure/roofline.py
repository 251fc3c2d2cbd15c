"""The roofline: what a machine's two ceilings allow a computation of given intensity.

    intensity = operations / bytes moved        attainable = min(peak, bandwidth · intensity)

Source: Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model for
multicore architectures", Communications of the ACM 52(4).
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

__all__ = [
    "PUBLISHED",
    "Ceilings",
    "attainable_flops",
    "measure_copy_bandwidth",
    "measure_matmul_flops",
]


class Ceilings(NamedTuple):
    """What a machine can do at most.

    Fields:
        flops_per_s: Floating-point operations (a multiplication and an addition are two) a second.
        bytes_per_s: Bytes a second, read and written, of its large memory.
    """

    flops_per_s: float
    bytes_per_s: float

    @property
    def ridge(self) -> float:
        """The intensity, in operations per byte, from which the arithmetic is the limit."""
        return self.flops_per_s / self.bytes_per_s


# Products of 16-bit matrices, dense, and the HBM, as published.
PUBLISHED = {
    # Dao 2023, arXiv:2307.08691, §3.1; Dao et al. 2022, arXiv:2205.14135, §2.1 (the 40 GB card).
    "A100": Ceilings(312e12, 1.5e12),
    # Shah et al. 2024, arXiv:2407.08608, §2.2, of the H100 SXM5.
    "H100": Ceilings(989e12, 3.35e12),
}


def attainable_flops(intensity: float, ceilings: Ceilings) -> float:
    """Operations a second that the roofline allows.

    Args:
        intensity: Operations per byte moved, > 0.
        ceilings: The machine's.

    Raises:
        ValueError: The intensity is not positive.

    Example:
        >>> [attainable_flops(x, Ceilings(100.0, 20.0)) for x in (1.0, 5.0, 50.0)]
        [20.0, 100.0, 100.0]
    """
    if not intensity > 0:
        raise ValueError(f"intensity must be more than 0 operations per byte, got {intensity}")
    return min(ceilings.flops_per_s, ceilings.bytes_per_s * intensity)


def measure_matmul_flops(
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    size: int = 1024,
    repeats: int = 5,
) -> float:
    """Operations a second of a square matrix product, the best of a few runs.

    The factors are random: a GPU multiplies ones, which cost it less power, faster than it can
    multiply.

    Args:
        device: Where; a GPU wants a ``size`` of 8192.
        dtype: Of the matrices.
        size: Rows and columns.
        repeats: Runs, after one that is not timed.
    """
    generator = torch.Generator(device).manual_seed(0)
    a, b, out = (
        torch.randn(size, size, generator=generator, dtype=dtype, device=device) for _ in range(3)
    )
    seconds = _best_seconds(lambda: torch.mm(a, b, out=out), device, repeats)
    return 2 * size**3 / seconds


def measure_copy_bandwidth(
    *, device: torch.device | str = "cpu", size_bytes: int = 2**27, repeats: int = 5
) -> float:
    """Bytes a second, read and written together, of copying one tensor to another.

    Args:
        device: Where; a GPU wants 2³⁰ bytes.
        size_bytes: Of each of the two; several times the last cache.
        repeats: Runs, after one that is not timed.
    """
    source, target = (torch.ones(size_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size_bytes / _best_seconds(lambda: target.copy_(source), device, repeats)


def _best_seconds(run: Callable[[], object], device: torch.device | str, repeats: int) -> float:
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    on_gpu = torch.device(device).type == "cuda"
    times = []
    for _ in range(repeats + 1):
        if on_gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
