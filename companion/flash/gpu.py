"""Attention on a GPU, tested and measured: ``python -m companion.flash.gpu --json FILE``.

Runs the tests marked `gpu` of this chapter, then the benches of `companion.flash.gpu_benches`, and
writes one JSON file that names the machine, the versions and the date. From a checkout, it needs
PyTorch, Triton, NumPy, jaxtyping and pytest, and nothing else.

Exit status: 0, all tests passed and every bar is met; 1, not so, or there is no GPU.
"""

import argparse
import ast
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["main", "pytest_command", "report", "runnable_tests"]

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    options = _parser().parse_args(arguments)
    if not torch.cuda.is_available():
        print("expected a CUDA device, got none: torch sees no GPU here", file=sys.stderr)
        return 1
    # Imported here: without a GPU neither Triton nor its kernels are wanted.
    from companion.flash import gpu_benches

    tests = _run_tests()
    benches = {
        "ceilings": gpu_benches.ceilings(),
        "attention": gpu_benches.attention_records(),
        "decode": gpu_benches.decode_records(),
    }
    found = report(tests, benches)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{options.json}: {'passed' if found['passed'] else 'NOT passed'}")
    return 0 if found["passed"] else 1


def report(tests: dict[str, Any], benches: dict[str, Any]) -> dict[str, Any]:
    """The whole JSON record; `passed` when the tests and every record that has a bar did.

    Example:
        >>> record = {"passed": False}
        >>> report({"passed": True}, {"attention": [record], "ceilings": {}})["passed"]
        False
    """
    records = [row for rows in benches.values() if isinstance(rows, list) for row in rows]
    return {
        "passed": tests["passed"] and all(row["passed"] for row in records),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "versions": _versions(),
        "tests": tests,
        **benches,
    }


def runnable_tests(folder: Path) -> tuple[list[Path], list[Path]]:
    """Test files whose imports are all installed here, and the others.

    A test of figures or of a language model needs more than attention does.
    """
    files = sorted(folder.glob("test_*.py"))
    runnable = [file for file in files if all(map(_is_installed, _imported(file)))]
    return runnable, [file for file in files if file not in runnable]


def pytest_command(files: Sequence[Path]) -> list[str]:
    """The pytest command for GPU tests, without the plugins that the project's settings name."""
    return [
        *(sys.executable, "-m", "pytest", "-m", "gpu", "-q"),
        *("-o", "addopts=--strict-markers --import-mode=importlib"),
        *("-W", "ignore::pytest.PytestConfigWarning"),  # `timeout` belongs to a plugin
        *map(str, files),
    ]


def _run_tests() -> dict[str, Any]:
    files, left_out = runnable_tests(ROOT / "tests/flash")
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run(
        pytest_command(files), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    print(run.stdout)
    lines = run.stdout.strip().splitlines()
    return {
        "passed": run.returncode == 0,
        "summary": lines[-1] if lines else "",
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "left_out": [file.name for file in left_out],
    }


def _imported(file: Path) -> set[str]:
    """Top-level names of the modules that a file imports at its head."""
    names = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _is_installed(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _machine() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"gpu": None, "system": platform.platform()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "system": platform.platform(),
    }


def _versions() -> dict[str, str | int | None]:
    found: dict[str, str | int | None] = {"python": platform.python_version()}
    for package in ("torch", "triton", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return found | {"cuda": torch.version.cuda, "cudnn": cudnn}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m companion.flash.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where to write")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
