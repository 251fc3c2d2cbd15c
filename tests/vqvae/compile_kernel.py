"""Compile the nearest-code kernel for a GPU that is not there, and print what it takes, as JSON.

python -m tests.vqvae.compile_kernel CAPABILITY DTYPE WIDTH     e.g. 90 bfloat16 256
"""

import json
import sys
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget

from companion.vqvae.triton import launch
from tests.flash.compile_kernels import resources


class CompileOnly:
    """In place of the kernel: each launch stops once it is compiled."""

    def __getitem__(self, grid):
        def compile_only(*arguments, **settings):
            compiled = kernel.warmup(*arguments, grid=grid, **settings)
            print(json.dumps(resources(compiled)))

        return compile_only


if __name__ == "__main__":
    capability, dtype, width = int(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3])
    driver = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    triton.runtime.driver.set_active(driver)
    kernel, launch.nearest_code_kernel = launch.nearest_code_kernel, CompileOnly()
    launch._check_device = lambda z: None
    codes = torch.zeros(1024, width)
    z = torch.zeros(4096, width, dtype=dtype)
    launch.triton_nearest_code(z, codes[0], codes, codes[:, 0])
