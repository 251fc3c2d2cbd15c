"""Launching the Triton kernels: shapes, strides and tiles in, tensors out.

The same interface as ``companion.flash.tiled``, for CUDA tensors, and for CPU tensors where
TRITON_INTERPRET=1 was set before Triton was imported. Nothing here is differentiable: the public
functions in ``companion.flash.attention`` and ``companion.flash.varlen`` are.

Sequences of a batch and packed sequences share the kernels: packed tensors are passed as views
whose batch stride is 0, with the offsets beside them.
"""

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from companion.flash.masks import Window
from companion.flash.triton.kernels.backward import dkdv_kernel, dq_kernel
from companion.flash.triton.kernels.decode import decode_kernel
from companion.flash.triton.kernels.forward import forward_kernel
from companion.flash.triton.kernels.merge import merge_kernel
from companion.flash.triton.tuning import Generation, Pass, generation_of, tile_for

__all__ = [
    "check_device",
    "is_interpreted",
    "settings_of",
    "triton_backward",
    "triton_decode",
    "triton_forward",
    "triton_merge",
    "triton_varlen_backward",
    "triton_varlen_forward",
]

LOG2E = math.log2(math.e)


class _Packing(NamedTuple):
    """How many rows a sequence has at most, and where packed ones begin."""

    longest_q: int
    longest_k: int
    q_offsets: Tensor | None = None
    k_offsets: Tensor | None = None


def triton_forward(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    window: Window,
    scale: float,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """Output, in the inputs' dtype, and log-sum-exp, in float32; both contiguous.

    Args:
        q, k, v: float16, bfloat16 or float32; any strides.
        window: What a query sees, as ``companion.flash.masks.resolve_window`` gives it.
        scale: Multiplies the scores.

    Raises:
        TypeError: Another dtype.
        RuntimeError: Tensors that Triton cannot reach: see ``check_device``.
    """
    check_device(q)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    packing = _Packing(q.shape[2], k.shape[2])
    _launch_forward(q, k, v, out, lse, packing, window=window, scale=scale)
    return out, lse


def triton_backward(
    grad_out: Float[Tensor, "B H T D"],
    grad_lse: Float[Tensor, "B H T"] | None,
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    out: Float[Tensor, "B H T D"],
    lse: Float[Tensor, "B H T"],
    *,
    window: Window,
    scale: float,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
    """dQ, dK and dV, the same bits on every run; ``out`` and ``lse`` as the forward gave them."""
    check_device(q)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    packing = _Packing(q.shape[2], k.shape[2])
    rows = (lse.contiguous(), torch.empty(lse.shape, dtype=lse.dtype, device=lse.device))
    tensors = (q, k, v, grad_out, *rows, out.contiguous(), grad_lse)
    _launch_backward(*tensors, dq, dk, dv, packing, window=window, scale=scale)
    return dq, dk, dv


def triton_varlen_forward(
    q: Float[Tensor, "N H D"],
    k: Float[Tensor, "M G D"],
    v: Float[Tensor, "M G D"],
    *,
    q_offsets: Int[Tensor, "B+1"],
    k_offsets: Int[Tensor, "B+1"],
    longest_q: int,
    longest_k: int,
    window: Window,
    scale: float,
) -> tuple[Float[Tensor, "N H D"], Float[Tensor, "H N"]]:
    """As ``triton_forward``, for packed sequences.

    Sequence b has the queries q_offsets[b] … q_offsets[b + 1] − 1, and likewise its keys; the
    offsets must cover every row, and none of the sequences may be longer than ``longest_q`` and
    ``longest_k`` say.
    """
    check_device(q)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)
    batch = q_offsets.numel() - 1
    views = (_packed_view(x, batch) for x in (q, k, v, out))
    packing = _Packing(longest_q, longest_k, q_offsets.contiguous(), k_offsets.contiguous())
    _launch_forward(*views, lse.expand(batch, -1, -1), packing, window=window, scale=scale)
    return out, lse


def triton_varlen_backward(
    grad_out: Float[Tensor, "N H D"],
    grad_lse: Float[Tensor, "H N"] | None,
    q: Float[Tensor, "N H D"],
    k: Float[Tensor, "M G D"],
    v: Float[Tensor, "M G D"],
    out: Float[Tensor, "N H D"],
    lse: Float[Tensor, "H N"],
    *,
    q_offsets: Int[Tensor, "B+1"],
    k_offsets: Int[Tensor, "B+1"],
    longest_q: int,
    longest_k: int,
    window: Window,
    scale: float,
) -> tuple[Float[Tensor, "N H D"], Float[Tensor, "M G D"], Float[Tensor, "M G D"]]:
    """As ``triton_backward``, for packed sequences."""
    check_device(q)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    batch = q_offsets.numel() - 1
    packing = _Packing(longest_q, longest_k, q_offsets.contiguous(), k_offsets.contiguous())
    delta = torch.empty(lse.shape, dtype=lse.dtype, device=lse.device)
    rows = (x.expand(batch, -1, -1) for x in (lse.contiguous(), delta))
    grad_lse = None if grad_lse is None else grad_lse.expand(batch, -1, -1)
    *inputs, out, dq_view, dk_view, dv_view = (
        _packed_view(x, batch) for x in (q, k, v, grad_out, out.contiguous(), dq, dk, dv)
    )
    tensors = (*inputs, *rows, out, grad_lse)
    _launch_backward(*tensors, dq_view, dk_view, dv_view, packing, window=window, scale=scale)
    return dq, dk, dv


def triton_decode(
    q: Float[Tensor, "B H D"],
    k_cache: Float[Tensor, "B G S D"],
    v_cache: Float[Tensor, "B G S D"],
    lengths: Int[Tensor, "B"] | None,
    *,
    splits: int,
    scale: float,
) -> tuple[Float[Tensor, "P B H D"], Float[Tensor, "P B H"]]:
    """Partial outputs and log-sum-exps, both float32, of each of P = ``splits`` parts of the keys.

    Merge them with ``triton_merge``. What lies beyond ``lengths`` is not read;
    None means that the whole cache is valid.
    """
    check_device(q)
    (batch, heads, width), key_heads = q.shape, k_cache.shape[1]
    out = torch.empty(splits, *q.shape, dtype=torch.float32, device=q.device)
    lse = torch.empty(splits, batch, heads, dtype=torch.float32, device=q.device)
    group = heads // key_heads
    q_BGMD = q.unflatten(1, (key_heads, group))
    lengths = None if lengths is None else lengths.contiguous()
    settings = _settings("decode", q)
    block_m = max(settings["BLOCK_M"], triton.next_power_of_2(group))
    settings = settings | {"BLOCK_M": block_m}
    tensors = (q_BGMD, k_cache, v_cache, out, lse)
    strides = [x.stride() for x in tensors]
    _launch(
        decode_kernel, splits * batch * key_heads, q, *tensors, lengths, *strides,
        k_cache.shape[2], splits, key_heads, group, scale * LOG2E, width, **settings,
    )  # fmt: skip
    return out, lse


def triton_merge(
    outs: Float[Tensor, "P B H D"], lses: Float[Tensor, "P B H"], dtype: torch.dtype
) -> tuple[Float[Tensor, "B H D"], Float[Tensor, "B H"]]:
    """``companion.flash.merge_partials`` of what ``triton_decode`` gives, in one launch.

    Args:
        outs, lses: Contiguous, float32. The output of a part whose log-sum-exp is −inf is not read.
        dtype: Of the output; the log-sum-exp stays float32.
    """
    parts, *rows, width = outs.shape
    out = torch.empty(*rows, width, dtype=dtype, device=outs.device)
    lse = torch.empty(rows, dtype=torch.float32, device=outs.device)
    _launch(
        merge_kernel, lse.numel(), outs, outs, lses, out, lse, lse.numel(), parts,
        width, BLOCK_D=_padded(width), BLOCK_P=16,
    )  # fmt: skip
    return out, lse


def is_interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET was set at their import."""
    return isinstance(forward_kernel, InterpretedFunction)


def check_device(q: Tensor) -> None:
    """Refuse what the kernels cannot compute where they run.

    Raises:
        TypeError: A dtype other than float16, bfloat16 and float32; bfloat16 in the interpreter,
            whose product of two bfloat16 tiles multiplies their bit patterns as integers.
        RuntimeError: A tensor that is neither on a CUDA device nor, interpreted, on the CPU.
    """
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(
            f"the Triton back end computes float16, bfloat16 and float32, got {q.dtype}"
        )
    if is_interpreted():
        if q.dtype == torch.bfloat16:
            raise TypeError(
                "Triton's interpreter multiplies bfloat16 wrongly: expected float16 or float32 "
                "under TRITON_INTERPRET=1, got torch.bfloat16"
            )
        if q.device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"Triton's interpreter reads CPU and CUDA tensors, got {q.device}")
    elif q.device.type != "cuda":
        raise RuntimeError(
            f"the Triton back end needs CUDA tensors, got tensors on {q.device}; set "
            "TRITON_INTERPRET=1 before Triton is imported to run its kernels on the CPU"
        )


def _launch_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    packing: _Packing,
    *,
    window: Window,
    scale: float,
) -> None:
    batch, heads, _, width = q.shape
    settings = _settings("forward", q)
    tensors = (q, k, v, out, lse)
    strides = [x.stride() for x in tensors]
    _launch(
        forward_kernel, triton.cdiv(packing.longest_q, settings["BLOCK_M"]) * batch * heads, q,
        *tensors, *strides, packing.q_offsets, packing.k_offsets,
        packing.longest_q, packing.longest_k, heads, heads // k.shape[1],
        *_binding(window, packing), scale * LOG2E, width, **settings,
    )  # fmt: skip


def _launch_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad_out: Tensor,
    lse: Tensor,
    delta: Tensor,
    out: Tensor,
    grad_lse: Tensor | None,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    packing: _Packing,
    *,
    window: Window,
    scale: float,
) -> None:
    """Writes Δ, which lies in memory as the log-sum-exp does, and the gradients; out as dq."""
    batch, heads, _, width = q.shape
    key_heads = k.shape[1]
    inputs = (q, k, v, grad_out, lse, delta)
    strides = [x.stride() for x in (q, k, v, grad_out, lse)]
    strides_of_rows = None if grad_lse is None else grad_lse.stride()
    offsets = (packing.q_offsets, packing.k_offsets, packing.longest_q, packing.longest_k)
    rest = (heads // key_heads, *_binding(window, packing), scale, width)
    settings = _settings("dq", q)
    _launch(
        dq_kernel, triton.cdiv(packing.longest_q, settings["BLOCK_M"]) * batch * heads, q,
        *inputs, out, grad_lse, dq, *strides, strides_of_rows, dq.stride(),
        *offsets, heads, *rest, **settings,
    )  # fmt: skip
    settings = _settings("dkdv", q)
    _launch(
        dkdv_kernel, triton.cdiv(packing.longest_k, settings["BLOCK_N"]) * batch * key_heads, q,
        *inputs, dk, dv, *strides, dk.stride(), *offsets, key_heads, *rest, **settings,
    )  # fmt: skip


def _launch(
    kernel: Callable[..., Any], programs: int, like: Tensor, *arguments: object, **settings: object
) -> None:
    """Run a kernel on the device of ``like``; of no programs, which CUDA would refuse, run none."""
    if programs:
        with _on_device(like):
            kernel[(programs,)](*arguments, **settings)


def _settings(pass_: Pass, q: Tensor) -> dict[str, Any]:
    """Everything that a kernel is compiled for, by the names of its arguments; read-only."""
    return settings_of(pass_, q.shape[-1], q.element_size(), _generation(q))


@functools.cache
def settings_of(
    pass_: Pass, width: int, element_bytes: int, generation: Generation | None
) -> dict[str, Any]:
    """The same from what a tile depends on; kept, so that a call looks nothing up."""
    tile = tile_for(pass_, width, element_bytes, generation)
    return {
        "BLOCK_D": _padded(width),
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        # For float32 the tensor cores would round the factors to 11 bits; 16-bit ones are exact.
        "PRECISION": "ieee",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def _binding(window: Window, packing: _Packing) -> Window:
    """The window without the sides that hide nothing, whose masks would be computed for nothing.

    This also keeps p ± side within the kernels' 32-bit key numbers.
    """
    left, right = window
    if left is not None and left >= packing.longest_k - 1:
        left = None
    if right is not None and right >= packing.longest_q - 1:
        right = None
    return Window(left, right)


def _packed_view(x: Float[Tensor, "N H D"], batch: int) -> Float[Tensor, "B H N D"]:
    """All sequences of a pack see the whole pack, moved by no batch stride."""
    return x.transpose(0, 1).expand(batch, -1, -1, -1)


def _padded(width: int) -> int:
    """Tiles are powers of two wide, and tensor cores want 16 columns."""
    return max(16, triton.next_power_of_2(width))


def _generation(q: Tensor) -> Generation | None:
    return None if is_interpreted() else _generation_of_device(q.device.index)


@functools.cache
def _generation_of_device(index: int) -> Generation:
    return generation_of(torch.cuda.get_device_capability(index))


def _on_device(x: Tensor) -> AbstractContextManager[object]:
    """Makes the device of ``x`` the current one, which takes longer than to see that it is."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)
