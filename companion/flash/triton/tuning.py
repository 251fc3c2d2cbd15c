"""Tile sizes of the Triton kernels, per pass, head width and GPU generation.

Hopper's rows for 2-byte elements are measured. The others are reasoned: from the shared memory that
a tile and its ``stages`` copies take, and from the registers that its float32 sums take;
``tests/flash/test_triton_tuning.py`` compiles rows of the table and checks both. Replace a reasoned
row by a measured one, and say so beside it.

Ampere's rows keep to 99 KiB of shared memory, so that they hold for every GPU of that generation
and the next (compute capability 8.x) and not only for the A100 with its 163 KiB; Hopper has 227.
"""

from typing import Literal, NamedTuple

__all__ = ["Generation", "Pass", "Tile", "decode_splits", "generation_of", "tile_for"]

Pass = Literal["forward", "dkdv", "dq", "decode"]
Generation = Literal["ampere", "hopper"]


class Tile(NamedTuple):
    """Queries × keys of one tile, warps of one program, and tiles in flight to shared memory."""

    block_m: int
    block_n: int
    warps: int
    stages: int


WIDTHS = (32, 64, 128, 256)

# Two bytes per element; keyed by pass, padded head width and generation.
HALF: dict[tuple[Pass, int, Generation], Tile] = {
    # Measured in bfloat16, Triton 3.6.0, 2026-11-27, the fastest of up to 66 tiles each. Widths 64
    # and 128 of the three attention passes on an H100, the others on an H200; N 4096, B 4, H 16.
    ("forward", 32, "hopper"): Tile(64, 64, 4, 3),
    ("forward", 64, "hopper"): Tile(128, 64, 8, 4),
    ("forward", 128, "hopper"): Tile(128, 128, 8, 3),
    ("forward", 256, "hopper"): Tile(128, 64, 8, 2),
    ("dkdv", 32, "hopper"): Tile(128, 64, 4, 2),
    ("dkdv", 64, "hopper"): Tile(128, 64, 4, 2),
    ("dkdv", 128, "hopper"): Tile(64, 128, 8, 1),
    ("dkdv", 256, "hopper"): Tile(64, 64, 8, 1),
    ("dq", 32, "hopper"): Tile(64, 64, 4, 3),
    ("dq", 64, "hopper"): Tile(128, 64, 8, 3),
    ("dq", 128, "hopper"): Tile(128, 64, 8, 3),
    ("dq", 256, "hopper"): Tile(128, 32, 8, 3),
    # The same, against 32k and 131k keys in 16 parts; within 5% of the best at either length.
    ("decode", 64, "hopper"): Tile(16, 32, 4, 5),
    ("decode", 128, "hopper"): Tile(16, 64, 4, 2),
    # Reasoned.
    ("decode", 32, "hopper"): Tile(16, 128, 4, 4),
    ("decode", 256, "hopper"): Tile(16, 64, 4, 3),
    ("forward", 32, "ampere"): Tile(128, 64, 4, 3),
    ("forward", 64, "ampere"): Tile(128, 64, 4, 3),
    ("forward", 128, "ampere"): Tile(128, 64, 8, 2),
    ("forward", 256, "ampere"): Tile(64, 32, 8, 2),
    ("dkdv", 32, "ampere"): Tile(64, 64, 4, 3),
    ("dkdv", 64, "ampere"): Tile(64, 64, 4, 2),
    ("dkdv", 128, "ampere"): Tile(32, 64, 4, 2),
    ("dkdv", 256, "ampere"): Tile(16, 32, 4, 1),
    ("dq", 32, "ampere"): Tile(64, 64, 4, 3),
    ("dq", 64, "ampere"): Tile(64, 32, 4, 3),
    ("dq", 128, "ampere"): Tile(64, 32, 4, 2),
    ("dq", 256, "ampere"): Tile(32, 16, 4, 1),
    ("decode", 32, "ampere"): Tile(16, 128, 4, 3),
    ("decode", 64, "ampere"): Tile(16, 64, 4, 3),
    ("decode", 128, "ampere"): Tile(16, 64, 4, 2),
    ("decode", 256, "ampere"): Tile(16, 32, 4, 2),
}

# Four bytes per element: exact float32 products use no tensor cores, so registers are the limit.
SINGLE: dict[tuple[Pass, int], Tile] = {
    ("forward", 32): Tile(64, 32, 4, 2),
    ("forward", 64): Tile(32, 32, 4, 2),
    ("forward", 128): Tile(32, 32, 4, 2),
    ("forward", 256): Tile(32, 16, 4, 1),
    ("dkdv", 32): Tile(32, 32, 4, 2),
    ("dkdv", 64): Tile(32, 32, 4, 2),
    ("dkdv", 128): Tile(16, 32, 4, 1),
    ("dkdv", 256): Tile(16, 16, 4, 1),
    ("dq", 32): Tile(32, 32, 4, 2),
    ("dq", 64): Tile(32, 32, 4, 2),
    ("dq", 128): Tile(32, 16, 4, 1),
    ("dq", 256): Tile(16, 16, 4, 1),
    ("decode", 32): Tile(16, 32, 4, 2),
    ("decode", 64): Tile(16, 32, 4, 2),
    ("decode", 128): Tile(16, 32, 4, 2),
    ("decode", 256): Tile(16, 16, 4, 2),
}

# Small and unequal, so that a short test meets several tiles and cannot confuse the two sides.
INTERPRETER = Tile(64, 32, 1, 1)


def tile_for(pass_: Pass, width: int, element_bytes: int, generation: Generation | None) -> Tile:
    """The tile of one pass; ``generation`` None stands for the interpreter.

    Args:
        pass_: "forward", "dkdv", "dq" or "decode".
        width: D, the width of a head, up to 256.
        element_bytes: 2 or 4.
        generation: See ``generation_of``.

    Example:
        >>> tile_for("forward", 80, 2, "hopper")
        Tile(block_m=128, block_n=128, warps=8, stages=3)
    """
    if generation is None:
        return INTERPRETER
    bucket = next(limit for limit in WIDTHS if width <= limit)
    return HALF[pass_, bucket, generation] if element_bytes == 2 else SINGLE[pass_, bucket]


def generation_of(capability: tuple[int, int]) -> Generation:
    """The row of the table for a GPU's compute capability.

    The workstation cards after Hopper (12.x) have Ampere's small shared memory.

    Raises:
        RuntimeError: The GPU is older than Ampere.

    Example:
        >>> generation_of((9, 0)), generation_of((8, 6)), generation_of((12, 0))
        ('hopper', 'ampere', 'ampere')
    """
    if capability < (8, 0):
        raise RuntimeError(
            "the Triton back end needs compute capability 8.0 (Ampere) or newer, "
            f"got {capability[0]}.{capability[1]}"
        )
    return "hopper" if capability[0] in (9, 10) else "ampere"


def decode_splits(programs: int, keys: int, processors: int) -> int:
    """Into how many parts to cut a cache so that the GPU is full and no part is too short.

    Args:
        programs: Sequences times key heads: what there is to do without a cut.
        keys: Length of the longest cache.
        processors: Multiprocessors of the GPU.

    Returns:
        Enough parts for four programs per processor, of at least 256 keys each; at least 1.

    Example:
        >>> decode_splits(8, 32768, 132)
        66
    """
    wanted = -(-4 * processors // max(programs, 1))
    return max(1, min(wanted, keys // 256))
