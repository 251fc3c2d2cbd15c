"""The Triton kernels of attention; import them through ``companion.flash.triton.launch``.

Plain pointers, no autotuning and no GPU needed at import, so that the same source compiles for
Ampere and Hopper and runs on the CPU under Triton's interpreter.
"""
