"""Kill a run with SIGKILL, start it again, and compare every bit with a run left alone."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("interrupted_run.py")
DEATHS = [
    ["step:11"],  # between two checkpoints
    ["write:1"],  # the first checkpoint written but not in place
    ["step:6", "write:2"],  # killed twice
]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The weights of a run left alone, and of every run of each that was killed."""
    folder = tmp_path_factory.mktemp("runs")
    runs, expected = [f"{folder}/whole {folder}/whole-weights never:0"], [0]
    for deaths in DEATHS:
        name = "+".join(deaths)
        for number, death in enumerate([*deaths, "never:0"]):
            runs.append(f"{folder}/{name} {folder}/{name}-weights-{number} {death}")
            expected.append(0 if death == "never:0" else -signal.SIGKILL)
    done = subprocess.run(
        [sys.executable, SCRIPT, *runs], timeout=250, capture_output=True, text=True
    )
    assert [int(status) for status in done.stdout.split()] == expected, done.stderr
    return folder


@pytest.mark.parametrize("deaths", DEATHS, ids="+".join)
def test_killed_and_resumed_ends_with_the_same_bits(folder, deaths):
    name = "+".join(deaths)
    written = sorted(folder.glob(f"{name}-weights-*"))
    assert written == [folder / f"{name}-weights-{len(deaths)}"]  # of the last run alone
    resumed, undisturbed = load_file(written[0]), load_file(folder / "whole-weights")
    assert resumed.keys() == undisturbed.keys()
    for key, expected in undisturbed.items():
        assert torch.equal(resumed[key], expected), key
    assert len(resumed["loss"]) == 23
