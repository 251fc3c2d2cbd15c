"""The peak of tensor bytes that a call allocates, as PyTorch's own allocator counts them.

A process' resident memory is rounded to pages, keeps what was freed, and differs from run to run;
the allocator's record is exact, and the same on every run.
"""

import itertools
from collections.abc import Callable

import torch
from torch.autograd import ProfilerConfig, ProfilerState, profiler_legacy

from companion.checks import typed

__all__ = ["peak_bytes"]


@typed
def peak_bytes(fn: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors, above those live at the start, at any moment of ``fn()``.

    What the kernels of PyTorch allocate for themselves is counted too. Not counted: buffers of
    BLAS, and, on the CPU, what other threads of Python allocate. On the CPU ``fn`` should free
    nothing that was there before: the record does not know its size and cannot take it off.

    Args:
        fn: Called once; what it returns is dropped.
        device: Whose memory; on a CUDA device sizes are those of its allocator, in steps of 512.

    Returns:
        Bytes.

    Raises:
        ValueError: The device is neither a CPU nor a CUDA device.

    Example:
        >>> x = torch.ones(1000)
        >>> peak_bytes(lambda: (x + x).sum())  # 1000 sums of 4 bytes, then one number
        4004
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device must be a CPU or a CUDA device, got {device!r}") from error
    if kind == "cpu":
        return max(itertools.accumulate(_cpu_changes(fn)), default=0)
    if kind == "cuda":
        return _cuda_peak(fn, torch.device(device))
    raise ValueError(f"device must be a CPU or a CUDA device, got {kind}")


def _cpu_changes(fn: Callable[[], object]) -> list[int]:
    """Each allocation (+bytes) and each release (−bytes), in order; it begins with a 0."""
    # The old profiler: the new one writes its start and its end to the process' error stream,
    # which a notebook shows, and takes twice the time.
    settings = ProfilerConfig(
        ProfilerState.CPU,
        False,  # shapes
        True,  # memory
        False,  # stacks
        False,  # operations counted
        False,  # modules
        torch._C._profiler._ExperimentalConfig(),
    )
    profiler_legacy._enable_profiler_legacy(settings)
    try:
        fn()
    finally:
        threads = profiler_legacy._disable_profiler_legacy()
    events = itertools.chain.from_iterable(threads)
    changes = [event.cpu_memory_usage() for event in events if event.kind() == "memory_alloc"]
    return [0, *changes]


def _cuda_peak(fn: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    fn()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
