"""Compile kernels for a GPU that is not there, and print what each takes, as JSON.

    python -m tests.flash.compile_kernels CAPABILITY DTYPE WIDTH [PASS ...]     e.g. 90 bfloat16 64

Triton carries its own compiler and assembler; only a launch needs a driver. So the launcher runs
on CPU tensors, with a driver that names a GPU, and each launch stops once its kernel is compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from companion.flash.masks import Window
from companion.flash.triton import launch as triton_attention
from companion.flash.triton.tuning import generation_of


def compiled_kernels(
    capability: int, dtype: torch.dtype, width: int, only: str | None = None
) -> dict[str, Any]:
    """Compiled kernels by name (or one of them), from launches over grouped, causal heads."""
    compiled: dict[str, Any] = {}
    driver = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    triton.runtime.driver.set_active(driver)

    def compile_only(kernel, programs, like, *arguments, **settings):
        name = kernel.fn.__name__.removesuffix("_kernel")
        if only in (None, name):
            compiled[name] = kernel.warmup(*arguments, grid=(programs,), **settings)

    triton_attention._launch = compile_only
    triton_attention.check_device = lambda q: None
    triton_attention._generation = lambda q: generation_of(divmod(capability, 10))
    q = torch.zeros(2, 6, 512, width, dtype=dtype)
    k = v = torch.zeros(2, 3, 512, width, dtype=dtype)
    setting = {"window": Window(right=0), "scale": 0.125}
    out, lse = triton_attention.triton_forward(q, k, v, **setting)
    triton_attention.triton_backward(out, lse, q, k, v, out, lse, **setting)
    lengths = torch.zeros(2, dtype=torch.int32)
    parts = triton_attention.triton_decode(q[:, :, 0], k, v, lengths, splits=4, scale=0.125)
    triton_attention.triton_merge(*parts, dtype)
    return compiled


def resources(kernel: Any) -> dict[str, int]:
    """Registers, stack bytes (spills) and shared bytes, and tensor-core instructions."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [tools / "cuobjdump", "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    shared = kernel.metadata.shared
    products = kernel.asm["ptx"].count("wgmma.mma_async") + kernel.asm["ptx"].count("mma.sync")
    threads = 32 * kernel.metadata.num_warps
    return {
        "registers": registers,
        "stack": stack,
        "shared": shared,
        "threads": threads,
        "tensor_core_products": products,
    }


if __name__ == "__main__":
    target, dtype, width = int(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3])
    found = compiled_kernels(target, dtype, width)
    print(json.dumps({name: resources(kernel) for name, kernel in found.items()}))
