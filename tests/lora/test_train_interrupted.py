"""The recipe killed and resumed, on one process and on two."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from companion.lora.train import main
from companion.training.checkpoints import read_checkpoint
from companion.training.run_record import Log
from tests.lora.recipe import TARGETS

SCRIPT = Path(__file__).with_name("interrupted_fine_tuning.py")

# PEFT asks transformers for a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


# What it survives -----------------------------------------------------------------------------


def test_log_drops_what_will_be_written_again(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path, done=0)
    for step in (0, 1, 2, 3):
        log.write({"step": step})
    path.write_text(path.read_text() + '{"step": 1')
    Log(path, done=2).write({"step": 9})
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n{"step": 9}\n'
    Log(path, done=0)
    assert path.read_text() == ""


def start(command: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environment, timeout=250, capture_output=True, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_killed_and_resumed_ends_with_the_same_bits(inputs, arguments, tmp_path):
    options = ["--held-out", str(inputs / "unseen.jsonl"), "--dropout", "0.3", "--steps", "13"]
    options += ["--lora-plus-ratio", "4", "--evaluate-every", "5", "--variant", "dora"]
    options += ["--precision", "fp16"]
    for death in ("checkpoint:2", "log:4"):
        result = start([str(SCRIPT), death, *arguments, *options])
        assert result.returncode == -signal.SIGKILL, result.stderr
    torch.manual_seed(5)  # of no consequence
    history = main([*arguments, *options])
    whole, resumed = tmp_path / "whole", tmp_path / "run"
    assert main([*arguments, *options, "--out", str(whole)]) == history
    assert (resumed / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    got, expected = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (resumed, whole)
    )
    assert got.keys() == expected.keys()
    for name in expected:
        assert torch.equal(got[name], expected[name]), name


# What it shares out ---------------------------------------------------------------------------


def test_two_processes_give_the_gradient_of_one_and_survive_a_kill(inputs, arguments, tmp_path):
    """Killed after the first checkpoint, started again, and compared with one process."""
    options = [*TARGETS, "--held-out", str(inputs / "unseen.jsonl"), "--steps", "7"]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    killed = start([*two, "checkpoint:2", *arguments, *options])
    assert killed.returncode == 1, killed.stderr
    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")["done"] == 4
    resumed = start([*two, "never:0", *arguments, *options])
    assert resumed.returncode == 0, resumed.stderr
    assert [line.split(":")[0] for line in resumed.stdout.splitlines()[1:]] == ["step 7", "adapter"]
    assert killed.stdout.count("step 0: held-out loss") == 1

    history = main([*arguments, *options, "--out", str(tmp_path / "one")])
    of_two, of_one = (
        read_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("run", "one")
    )
    assert of_two["state"]["schedule"] == of_one["state"]["schedule"]
    assert of_two["history"]["tokens"].tolist() == history["tokens"]
    assert of_two["history"]["loss"].tolist() == pytest.approx(history["loss"], abs=1e-5)
    assert of_two["state"]["evaluations"]["losses"] == pytest.approx(
        history["held_out_loss"], abs=1e-5
    )
    for name, expected in of_one["state"]["adapters"].items():
        assert_close(of_two["state"]["adapters"][name], expected, atol=1e-5, rtol=0)
    for number, expected in of_one["state"]["optimizer"]["state"].items():
        got = of_two["state"]["optimizer"]["state"][number]["exp_avg"]
        assert_close(got, expected["exp_avg"], atol=1e-6, rtol=0)
