"""The GPU command, as far as it can be tested without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from companion.flash import gpu, gpu_benches

ROOT = Path(__file__).parents[2]

# Stands for a machine with torch, triton, numpy, jaxtyping and pytest, and no more of the course.
BARE = """
import sys

MISSING = {missing!r}

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
MISSING = [
    *("hypothesis", "transformers", "scipy", "sklearn", "skimage", "matplotlib", "seaborn"),
    *(
        "psutil",
        "threadpoolctl",
        "ipywidgets",
        "peft",
        "ot",
        "gguf",
        "safetensors",
        "pytest_timeout",
    ),
]


def record(passed=True, **settings):
    setting = {"direction": "forward", "D": 64, "N": 1024, "causal": True} | settings
    times_ms = {"ours": 1.0, "SDPA-FLASH": 1.3 if passed else 1.1, "cuDNN": 0.8}
    return gpu_benches._attention_record(setting, times_ms, 0.003)


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--json", str(tmp_path / "gpu.json")]) == 1
    assert "expected a CUDA device, got none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rates_and_ratios_by_hand():
    found = record()
    # 4 n² d operations of 128 heads, half of them, in a millisecond.
    assert found["tflops"]["ours"] == pytest.approx(4 * 1024**2 * 64 * 128 / 2 / 1e-3 / 1e12)
    assert found["ratios"] == {"SDPA-FLASH": 1.3, "cuDNN": 0.8}
    assert found["bars"] == {"SDPA-FLASH": 1.2, "cuDNN": 0.75}
    assert found["passed"]


def test_a_missed_bar_and_a_wrong_result_do_not_pass():
    assert not record(passed=False)["passed"]
    wrong = gpu_benches._attention_record(
        {"direction": "backward", "D": 128, "N": 1024, "causal": False}, {}, 0.5
    )
    assert not wrong["passed"]
    assert wrong["ratios"] == {"SDPA-FLASH": None, "cuDNN": None}


def test_a_peer_that_did_not_run_leaves_its_bar_unmet():
    setting = {"direction": "forward", "D": 64, "N": 1024, "causal": True}
    alone = gpu_benches._attention_record(setting, {"ours": 1.0, "SDPA-FLASH": 1.3}, 0.003)
    assert alone["ratios"]["cuDNN"] is None
    assert not alone["passed"]


def test_every_direction_and_width_has_its_bars():
    assert set(gpu_benches.BARS) == {
        (direction, width, peer)
        for direction in ("forward", "backward")
        for width in (64, 128)
        for peer in gpu_benches.PEERS
        if (direction, peer) != ("backward", "cuDNN")
    }


def test_the_whole_report(monkeypatch, tmp_path):
    """With a machine that is made up: what is written, and that a failed test fails it all."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "_machine", lambda: {"gpu": "made up"})
    monkeypatch.setattr(gpu, "_versions", lambda: {"torch": "2.11.0"})
    tests = {"passed": True, "summary": "7 passed", "failed": [], "left_out": []}
    monkeypatch.setattr(gpu, "_run_tests", lambda: tests)
    monkeypatch.setattr(gpu_benches, "ceilings", lambda: {"copy_gbps": 1000.0})
    monkeypatch.setattr(gpu_benches, "attention_records", lambda: [record()])
    monkeypatch.setattr(gpu_benches, "decode_records", lambda: [{"keys": 1, "passed": True}])
    path = tmp_path / "new" / "gpu.json"
    assert gpu.main(["--json", str(path)]) == 0
    found = json.loads(path.read_text("utf-8"))
    assert list(found) == [
        *("passed", "date", "machine", "versions", "tests", "ceilings", "attention", "decode")
    ]
    assert found["attention"] == [record()]
    tests["passed"] = False
    assert gpu.main(["--json", str(path)]) == 1
    assert json.loads(path.read_text("utf-8"))["passed"] is False


def test_machine_and_versions_without_a_gpu():
    assert "system" in gpu._machine()
    assert gpu._versions()["torch"].startswith(torch.__version__.partition("+")[0])


def test_tests_are_collected_on_a_bare_machine(tmp_path):
    """The command finds the kernels' tests though most of the course's packages are missing."""
    (tmp_path / "bare.py").write_text(BARE.format(missing=MISSING), "utf-8")
    probe = (
        "import bare, json; from pathlib import Path; from companion.flash import gpu; "
        "files, rest = gpu.runnable_tests(Path('tests/flash')); "
        "print(json.dumps([gpu.pytest_command(files), [f.name for f in rest]]))"
    )
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    run = {"env": environment, "cwd": ROOT, "capture_output": True, "text": True, "check": False}
    found = subprocess.run([sys.executable, "-c", probe], **run)
    assert found.returncode == 0, found.stderr
    command, left_out = json.loads(found.stdout)
    assert not any(name.startswith(("test_triton", "test_gpu")) for name in left_out)
    collected = subprocess.run([*command, "-p", "bare", "--collect-only"], **run)
    assert collected.returncode == 0, collected.stdout + collected.stderr
    assert "test_triton_attention.py::test_is_attention_at_full_tiles" in collected.stdout
