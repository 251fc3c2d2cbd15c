"""Launching the nearest-code kernel: tensors in, indices out.

For CUDA tensors, and for CPU tensors where TRITON_INTERPRET=1 was set before Triton was imported.
"""

from contextlib import nullcontext

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from companion.vqvae.triton.nearest_code_kernel import nearest_code_kernel

__all__ = ["is_interpreted", "triton_nearest_code"]

# Reasoned, not measured. Compiled for Hopper and Ampere next to nothing spills, and two programs
# share the registers of a multiprocessor; 4,096 vectors make 128 programs, as many as a GPU's
# multiprocessors.
TILE = {"BLOCK_N": 32, "BLOCK_K": 128, "num_warps": 4, "num_stages": 2}
WIDEST_BLOCK = 32


def triton_nearest_code(
    z: Float[Tensor, "N D"],
    centre: Float[Tensor, "D"],
    codes: Float[Tensor, "K D"],
    norms: Float[Tensor, "K"],
) -> Int[Tensor, "N"]:
    """argmin_k norms_k − 2 (z − centre)·codes_k, the lowest index of equal ones.

    Args:
        z: float16, bfloat16 or float32, of any strides.
        centre, codes, norms: float32; the codes without the centre, and their squared norms.

    Raises:
        RuntimeError: Tensors that Triton cannot reach.
    """
    _check_device(z)
    indices = torch.empty(len(z), dtype=torch.int64, device=z.device)
    width = z.shape[1]
    # Tensor cores want 16 columns. ieee: they would round the factors to 11 bits.
    block = {"BLOCK_D": min(WIDEST_BLOCK, max(16, triton.next_power_of_2(width)))}
    tensors = (z, *(x.contiguous() for x in (centre, codes, norms)), indices)
    if len(z):  # CUDA refuses to run no programs
        with torch.cuda.device(z.device) if z.is_cuda else nullcontext():
            nearest_code_kernel[triton.cdiv(len(z), TILE["BLOCK_N"]),](
                *tensors, *z.stride(), len(z), len(codes), width, PRECISION="ieee", **block, **TILE
            )
    return indices


def is_interpreted() -> bool:
    """Whether the kernel runs in Triton's interpreter: TRITON_INTERPRET was set at its import."""
    return isinstance(nearest_code_kernel, InterpretedFunction)


def _check_device(z: Tensor) -> None:
    if not (z.is_cuda or (is_interpreted() and z.device.type == "cpu")):
        raise RuntimeError(
            f"the Triton back end needs CUDA tensors, got tensors on {z.device}; set "
            "TRITON_INTERPRET=1 before Triton is imported to run its kernel on the CPU"
        )
