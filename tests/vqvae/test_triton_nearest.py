"""The fused kernel: in the interpreter at small sizes, on a GPU in all dtypes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from companion.vqvae import nearest
from companion.vqvae.nearest import nearest_code
from tests.vqvae.nearest_cases import (
    EXACT_OFFSETS,
    assert_nearest,
    cloud,
    exact_grid,
    strided,
)

pytest.importorskip("triton")

from companion.vqvae.triton import launch

INTERPRETED = pytest.mark.skipif(
    not launch.is_interpreted(), reason="the kernel is compiled for a GPU here"
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
pytestmark = pytest.mark.parametrize(
    ("device", "dtype"),
    [pytest.param("cpu", dtype, marks=INTERPRETED) for dtype in DTYPES]
    + [pytest.param("cuda", dtype, marks=pytest.mark.gpu) for dtype in DTYPES],
)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Sizes of the searches that the kernel did; it does all of them, on the CPU too."""
    seen, launched = [], launch.triton_nearest_code

    def recorded(z, centre, codes, norms):
        seen.append((len(z), *codes.shape))
        return launched(z, centre, codes, norms)

    monkeypatch.setattr(launch, "triton_nearest_code", recorded)
    monkeypatch.setattr(nearest, "_uses_triton", lambda device_type, dtype: True)
    return seen


# Blocks are 32 rows, 128 codes, and up to 32 columns: below, at and above each.
SIZES = [(1, 1, 1), (33, 129, 7), (32, 128, 32), (5, 300, 33), (70, 31, 65)]


@pytest.mark.parametrize("far", [0.0, 1e4])
@pytest.mark.parametrize(("n", "k", "d"), SIZES)
def test_is_nearest_within_rounding(n, k, d, far, device, dtype, calls):
    z, codebook = (x.to(device, dtype) for x in cloud(n, k, d, far=far))
    found = nearest_code(z, codebook)
    assert calls == [(n, k, d)]
    assert_nearest(found, z, codebook, wide=torch.float32)
    assert torch.equal(nearest_code(strided(z), strided(codebook)), found)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(("n", "k", "d"), [(33, 300, 3), (70, 129, 2), (9, 257, 35)])
def test_where_nothing_is_rounded_it_is_the_first_of_the_nearest(n, k, d, far, device, dtype):
    """Ties within a block of codes, and between two of them."""
    z, codebook = exact_grid(n, k, d, offset=far * EXACT_OFFSETS[dtype], seed=n)
    codebook[k // 2 :] = codebook[: k - k // 2].clone()
    distances = (z[:, None] - codebook).square().sum(-1)
    assert ((distances == distances.amin(1, keepdim=True)).sum(1) > 1).all()
    found = nearest_code(z.to(device, dtype), codebook.to(device, dtype))
    assert torch.equal(found.cpu(), distances.argmin(1))


def test_padding_never_wins(device, dtype):
    """At the centre every score is positive, and a padded one would be zero."""
    codebook = torch.tensor([[1.0], [2.0], [-2.0], [-1.0]], device=device, dtype=dtype).repeat(5, 1)
    z = torch.zeros(3, 1, device=device, dtype=dtype)
    assert nearest_code(z, codebook).tolist() == [0, 0, 0]


def test_shapes_and_not_a_number(device, dtype):
    codebook = torch.tensor([[5.0, 5], [0, 1], [1, 0]], device=device, dtype=dtype)
    z = codebook[[2, 0, 1, 0]].reshape(2, 2, 2)
    z[0, 1, 1] = math.nan
    assert nearest_code(z, codebook).tolist() == [[2, 0], [1, 0]]
    assert nearest_code(z[:, :0], codebook).shape == (2, 0)
    assert nearest_code(z[0, 0], codebook).shape == ()


def test_rows_past_two_to_the_31_elements(device, dtype):
    if device == "cpu" or dtype == torch.float32:
        pytest.skip("4 GiB, for a GPU")
    z = torch.zeros(2**31 // 64 + 3, 64, device=device, dtype=dtype)
    z[-1] = 1
    found = nearest_code(z, z[[0, 0, -1]])
    assert found.count_nonzero() == 1
    assert found[-1] == 2


def test_compiles_for_a_gpu_that_is_not_there(device, dtype, tmp_path):
    """It fits twice, for Hopper and for Ampere, and next to nothing spills."""
    if sys.platform != "linux" or device == "cuda":
        pytest.skip("once per dtype, on Linux: Triton carries an assembler there only")
    capability, width = {
        torch.float32: ("90", "256"),
        torch.float16: ("80", "64"),
        torch.bfloat16: ("90", "7"),
    }[dtype]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    name = str(dtype).removeprefix("torch.")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.vqvae.compile_kernel", capability, name, width],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    used = json.loads(ran.stdout)
    assert used["stack"] <= 64
    assert used["shared"] <= 48 * 1024
    assert 2 * used["registers"] * used["threads"] <= 65536


def test_tensors_out_of_reach(device, dtype):
    with pytest.raises(RuntimeError, match="needs CUDA tensors, got tensors on meta"):
        launch._check_device(torch.zeros(3, 2, device="meta", dtype=dtype))
