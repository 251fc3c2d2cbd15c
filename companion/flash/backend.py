"""Which implementation computes attention: Triton kernels, tiled PyTorch, or the naive formula."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from contextvars import ContextVar

import torch

__all__ = ["attention_backend", "chosen_backend"]

_NAMES = ("triton", "tiled", "naive")

# A context variable: what one thread or one asynchronous task chooses, no other one sees.
_FORCED: ContextVar[str | None] = ContextVar("attention_backend", default=None)


@contextlib.contextmanager
def attention_backend(name: str) -> Iterator[None]:
    """Within the context, attention is computed by one back end, whatever the device.

    Without it, CUDA tensors use the Triton kernels (float64: the tiled form, which Triton has no
    use for) and all others the tiled form. The backward pass uses the back end of its forward,
    also when it runs outside of the context. A function compiled by ``torch.compile`` keeps the one
    that was in force when it was compiled; open the context around it, not inside it.

    Args:
        name: "triton" takes CUDA tensors, or CPU tensors where ``TRITON_INTERPRET=1`` was set
            before Triton was imported. "tiled" runs anywhere. "naive" keeps the T × S matrix, runs
            anywhere, and is the one whose gradient can be differentiated again.

    Raises:
        ValueError: Another name.

    Example:
        >>> from companion.flash import flash_attention
        >>> q = torch.ones(1, 1, 2, 16)
        >>> with attention_backend("naive"):
        ...     out = flash_attention(q, q, q)
    """
    if name not in _NAMES:
        raise ValueError(f"backend: expected one of {', '.join(_NAMES)}, got {name!r}")
    token = _FORCED.set(name)
    try:
        yield
    finally:
        _FORCED.reset(token)


def chosen_backend(device_type: str, dtype: torch.dtype) -> str:
    """The back end for tensors of this kind, checked to be able to take them.

    Raises:
        RuntimeError: Triton is chosen, and the tensors are not on a GPU, or it is not installed.
        TypeError: Triton is chosen for float64.

    Example:
        >>> chosen_backend("cpu", torch.float32)
        'tiled'
    """
    forced = _FORCED.get()
    if forced is None:
        triton = device_type == "cuda" and dtype != torch.float64
        forced = "triton" if triton else "tiled"
    if forced == "triton":
        _check_triton(device_type, dtype)
    return forced


# What ``torch.compiler.assume_constant_result`` sets; as a decorator it would also import the
# compiler, and with it Triton, for every reader of the chapter.
chosen_backend._dynamo_marked_constant = True


def _check_triton(device_type: str, dtype: torch.dtype) -> None:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device_type != "cuda" and not (device_type == "cpu" and interpreted):
        raise RuntimeError(
            f"backend 'triton': expected CUDA tensors, got {device_type}; for CPU tensors set "
            "TRITON_INTERPRET=1 before Triton is imported"
        )
    if dtype == torch.float64:
        raise TypeError(
            "backend 'triton': expected float16, bfloat16 or float32, got torch.float64; "
            "use attention_backend('tiled')"
        )
    try:
        importlib.import_module("triton")
    except ImportError as error:
        raise RuntimeError(
            "backend 'triton': expected the package triton to be installed; without it, use "
            "attention_backend('tiled')"
        ) from error
