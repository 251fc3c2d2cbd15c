"""A GPU machine with torch, triton, numpy, jaxtyping and pytest tests and measures the kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Hides from an interpreter all that those five do not need themselves.
BARE = """
import sys
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

shown, waiting = {"companion"}, ["torch", "triton", "numpy", "jaxtyping", "pytest"]
while waiting:
    shown.add(name := waiting.pop())
    needed = map(Requirement, requires(name) or [])
    here = (r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""}))
    waiting += {*map(canonicalize_name, here)} - shown
owners = packages_distributions()
hidden = {name for name in owners if not shown & {*map(canonicalize_name, owners[name])}}


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)


assert {"psutil", "scipy", "safetensors", "tqdm", "hypothesis", "pytest_timeout"} <= hidden
sys.meta_path[:] = map(Without, sys.meta_path)
"""

COLLECT = "import pytest; sys.exit(pytest.main(['-q', '--collect-only', {}]))"


def run_bare(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BARE + code],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_the_gpu_tests_are_collected():
    run = run_bare(COLLECT.format("'tests', '-m', 'gpu'"))
    assert run.returncode == 0, run.stdout + run.stderr
    for file in ("attention", "decode", "triton_attention", "triton_varlen_decode"):
        assert f"tests/flash/test_{file}.py::" in run.stdout
    left_out = [line for line in run.stdout.splitlines() if line.startswith("SKIPPED")]
    assert any("tests/lora/test_files.py" in line and "needs peft" in line for line in left_out)
    assert any("tests/processes" in line and "needs psutil" in line for line in left_out)


def test_other_runs_want_everything():
    """Without ``-m gpu`` a package that is missing is an error, as it must be in CI."""
    run = run_bare(COLLECT.format("'tests/lora/test_files.py'"))
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert "No module named 'peft'" in run.stdout


def test_the_bench_measures():
    code = """
from companion.bench.__main__ import main
from companion.bench.flash import pinned
from companion.measure.machine import machine, versions
from companion.measure.timing import compare

work = next(pinned(17, 64, causal=True, shape=(1, 2), device="cpu"))
print(compare(work).equal, machine("cpu"), versions()["torch"])
if not __import__("torch").cuda.is_available():
    assert main(["flash", "--device", "cuda"]) == 2
"""
    run = run_bare(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("True ")
