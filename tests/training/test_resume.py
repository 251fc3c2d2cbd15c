"""Kill a run with SIGKILL, start it again, and compare every bit with a run left alone."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("interrupted_run.py")


def run(folder: Path, *, checkpoint: str, death: str = "never:0") -> tuple[int, Path]:
    weights = folder / f"{checkpoint}-weights.safetensors"
    command = [sys.executable, SCRIPT, folder / f"{checkpoint}.safetensors", weights, death]
    result = subprocess.run(command, timeout=120, stderr=subprocess.PIPE, text=True)
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result.returncode, weights


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, torch.Tensor]:
    status, weights = run(tmp_path_factory.mktemp("whole"), checkpoint="whole")
    assert status == 0
    return load_file(weights)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize(
    "deaths",
    [
        ["step:11"],  # between two checkpoints
        ["write:1"],  # the first checkpoint written but not in place
        ["step:6", "write:2"],  # killed twice
    ],
    ids=lambda deaths: "+".join(deaths),
)
def test_killed_and_resumed_ends_with_the_same_bits(tmp_path, undisturbed, deaths):
    for death in deaths:
        status, weights = run(tmp_path, checkpoint="run", death=death)
        assert status == -signal.SIGKILL
        assert not weights.exists()
    status, weights = run(tmp_path, checkpoint="run")
    assert status == 0
    resumed = load_file(weights)
    assert resumed.keys() == undisturbed.keys()
    for name, expected in undisturbed.items():
        assert torch.equal(resumed[name], expected), name
    assert len(resumed["loss"]) == 23
