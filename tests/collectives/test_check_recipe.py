"""``python -m companion.collectives.check`` under torchrun."""

import os
import subprocess
import sys

import pytest

from companion.collectives.check import ALGORITHMS, check_collectives

RANKS, SIZES = 4, ("4096", "1000004")


def test_under_torchrun():
    module = [sys.executable, "-W", "error", "-m", "torch.distributed.run"]
    count = ["--standalone", "--nproc-per-node", str(RANKS)]
    recipe = ["-m", "companion.collectives.check", "--backend", "gloo", "--sizes", *SIZES]
    done = subprocess.run(
        [*module, *count, *recipe, "--repeats", "2"],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{RANKS} ranks on gloo"
    rows = [line.split() for line in lines[2:]]
    assert [(row[0], row[1]) for row in rows] == [(a, s) for s in SIZES for a in ALGORITHMS]
    assert all(row[2] == "ok" for row in rows)
    for _, size, _, time_ms, busbw in rows:
        # Both are printed to three decimals.
        expected = int(size) / float(time_ms) / 1e6 * 2 * (RANKS - 1) / RANKS
        assert float(busbw) == pytest.approx(expected, rel=0.05, abs=6e-4)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="repeats must be >= 1, got 0"):
        check_collectives([4], repeats=0)
    with pytest.raises(ValueError, match="sizes must be >= 4 bytes, got 3"):
        check_collectives([8, 3])
