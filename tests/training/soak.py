"""Kill recipes with SIGKILL at random moments, start them again, and compare how they end.

    python -m tests.training.soak [KILLS] [RECIPE …]        make soak: 50 kills of each of three

Each recipe runs once undisturbed. Then it is killed again and again, sometimes while it starts,
mostly some time after it has written a checkpoint, and in the end left alone. The checkpoint must
hold the same bits, and its folder the same names. When a run ends before it was killed often
enough, another one begins.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors import safe_open

from companion.training.checkpoints import read_checkpoint, write_checkpoint
from tests.lora.recipe import small_arguments, write_inputs

__all__ = ["RECIPES", "soak"]

STEPS = "400"
PATIENCE_S = 300  # for one start to write a checkpoint; a hang ends here


def soak(module: str, arguments: list[str], folder: Path, *, kills: int, seed: int = 0) -> int:
    """How many runs it took until ``kills`` starts had been killed.

    Args:
        module: The recipe, which takes ``--out``.
        arguments: Its other arguments.
        folder: For the results of all runs.
        kills: At least so many starts are killed.
        seed: Of the moments.

    Raises:
        AssertionError: A run failed, hung, or ended with other bits or other files.
    """
    rng = random.Random(seed)
    command = [sys.executable, "-m", module, *arguments, "--out"]
    begun = time.monotonic()
    subprocess.run([*command, folder / "whole"], check=True, capture_output=True)
    undisturbed_s = time.monotonic() - begun
    expected = _end(folder / "whole")
    killed = runs = 0
    while killed < kills:
        out = folder / f"run{runs}"
        while killed < kills and _killed([*command, out], out, undisturbed_s, rng):
            killed += 1
        subprocess.run([*command, out], check=True, capture_output=True, timeout=PATIENCE_S)
        assert (end := _end(out)) == expected, f"{module}: expected {expected}, got {end}"
        runs += 1
    return runs


def _killed(command: list[object], out: Path, undisturbed_s: float, rng: random.Random) -> bool:
    """Start once and kill; False if it ended before."""
    checkpoint, before = out / "checkpoint.safetensors", _written(out)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0, undisturbed_s / 2))
        else:
            deadline = time.monotonic() + PATIENCE_S
            while _written(out) == before and process.poll() is None:
                assert time.monotonic() < deadline, f"no {checkpoint} after {PATIENCE_S} s"
                time.sleep(0.001)
            time.sleep(rng.uniform(0, undisturbed_s / 8))
        process.kill()
        return process.wait() == -signal.SIGKILL


def _written(out: Path) -> int:
    """When the checkpoint was written last, in ns."""
    try:
        return (out / "checkpoint.safetensors").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _end(out: Path) -> tuple[str, list[str]]:
    """The SHA-256 of what the checkpoint holds, and the names of all files.

    But for the global generators: no recipe draws from them, and no two processes start alike.
    """
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    tree = read_checkpoint(out / "checkpoint.safetensors")
    del tree["global"]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "end", tree)
        with safe_open(Path(folder) / "end", framework="pt") as file:
            return file.metadata()["sha256"], names


def _lora(folder: Path) -> list[str]:
    arguments = small_arguments(write_inputs(folder), folder)
    at = arguments.index("--out")
    return [*arguments[:at], *arguments[at + 2 :], "--steps", STEPS]


RECIPES = {
    "companion.wasserstein.train": lambda folder: [
        *("--width", "8", "--depth", "1", "--steps", STEPS, "--checkpoint-every", "7")
    ],
    "companion.vqvae.train": lambda folder: [
        *("--width", "4", "--codes", "9", "--steps", STEPS, "--checkpoint-every", "7")
    ],
    "companion.lora.train": _lora,
}


if __name__ == "__main__":
    number, *chosen = sys.argv[1:] or ["50"]
    for recipe in chosen or RECIPES:
        with tempfile.TemporaryDirectory() as name:
            inputs = Path(name) / "inputs"
            inputs.mkdir()
            taken = soak(recipe, RECIPES[recipe](inputs), Path(name), kills=int(number))
        print(f"{recipe}: {number} starts killed in {taken} runs, each ended with the same bits")
