"""The table of tiles is complete, fits the GPUs, and compiles for them without one."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from companion.bench.tile_sweep import SHARED_LIMIT, shared_bytes
from companion.flash.triton import tuning
from companion.flash.triton.tuning import decode_splits, generation_of, tile_for

PASSES = get_args(tuning.Pass)


@pytest.mark.parametrize("generation", ["ampere", "hopper"])
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_every_width_has_a_tile_that_fits(pass_, generation, element_bytes):
    limit = SHARED_LIMIT[generation]
    for width in range(16, 257):
        tile = tile_for(pass_, width, element_bytes, generation)
        assert all(n & (n - 1) == 0 for n in tile[:3])
        assert min(tile.block_m, tile.block_n) >= 16
        padded = 1 << (width - 1).bit_length()
        assert shared_bytes(pass_, padded, tile, element_bytes=element_bytes) <= limit


def test_no_row_is_unused():
    keys = product(PASSES, tuning.WIDTHS, ("ampere", "hopper"))
    assert set(tuning.HALF) == set(keys)
    assert set(tuning.SINGLE) == set(product(PASSES, tuning.WIDTHS))


def test_interpreter_has_its_own_tile():
    assert tile_for("dq", 128, 4, None) is tuning.INTERPRETER
    assert tuning.INTERPRETER.block_m != tuning.INTERPRETER.block_n


def test_generations():
    assert [generation_of(c) for c in [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)]] == [
        "ampere", "ampere", "hopper", "hopper", "ampere",
    ]  # fmt: skip
    with pytest.raises(RuntimeError, match=r"needs compute capability 8\.0 .* got 7\.5"):
        generation_of((7, 5))


@pytest.mark.parametrize(
    ("programs", "keys", "processors", "splits"),
    [(8, 32768, 132, 66), (8, 100, 132, 1), (10**6, 32768, 132, 1), (1, 4096, 132, 16)],
)
def test_splits(programs, keys, processors, splits):
    assert decode_splits(programs, keys, processors) == splits


def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    """Hopper's tensor cores are used, its shared memory suffices, and next to nothing spills."""
    pytest.importorskip("triton")
    if sys.platform != "linux":
        pytest.skip("Triton carries an assembler on Linux only")
    command = [sys.executable, "-m", "tests.flash.compile_kernels", "90", "bfloat16", "128"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    ran = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    kernels = json.loads(ran.stdout)
    assert set(kernels) == {"forward", "dkdv", "dq", "decode", "merge"}
    for name, used in kernels.items():
        assert used["shared"] <= 227 * 1024
        assert used["registers"] * used["threads"] <= 65536
        assert used["stack"] <= 64, f"{name} spills registers: {used}"
        assert (used["tensor_core_products"] > 0) == (name != "merge")
