"""A GPU machine with torch, triton, numpy, jaxtyping and pytest tests and measures the kernels."""

import pytest

from tests.house.hidden_packages import run_with_only

FEW = ("torch", "triton", "numpy", "jaxtyping", "pytest")
COLLECT = "import pytest, sys; sys.exit(pytest.main(['-q', '--collect-only', {}]))"


def test_the_gpu_tests_are_collected():
    run = run_with_only(FEW, COLLECT.format("'tests', '-m', 'gpu'"))
    assert run.returncode == 0, run.stdout + run.stderr
    for file in ("attention", "decode", "triton_attention", "triton_varlen_decode"):
        assert f"tests/flash/test_{file}.py::" in run.stdout
    left_out = [line for line in run.stdout.splitlines() if line.startswith("SKIPPED")]
    assert any("tests/lora/test_files.py" in line and "needs peft" in line for line in left_out)
    assert any("tests/processes" in line and "needs psutil" in line for line in left_out)


def test_other_runs_want_everything():
    """Without ``-m gpu`` a package that is missing is an error, as it must be in CI."""
    run = run_with_only(FEW, COLLECT.format("'tests/lora/test_files.py'"))
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
    run = run_with_only(FEW, code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("True ")
