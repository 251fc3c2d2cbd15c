"""The recipe at toy size: what its tests train on, and how they call it."""

import json
from pathlib import Path

import pytest

from companion.lora.train import main
from tests.language.tiny_language_model import CHAT, save, write_jsonl

__all__ = ["RECORDS", "SMALL", "SUMS", "TARGETS", "files", "refused"]
__all__ += ["small_arguments", "write_inputs"]

SUMS = [(a, b) for a in range(6) for b in range(6)]
RECORDS = [
    {"prompt": f"{a} + {b} =", "completion": f" {a + b}" + " red" * (a % 4)} for a, b in SUMS
]
TARGETS = ["--targets", "q_proj", "v_proj", "down_proj", "lm_head"]
SMALL = ["--rank", "3", "--batch-size", "7", "--learning-rate", "0.02", "--checkpoint-every", "4"]


def write_inputs(folder: Path) -> Path:
    """A folder with a model, records to learn and records to evaluate on."""
    save(folder / "model", chat=CHAT)
    lines = [json.dumps(record) for record in RECORDS]
    write_jsonl(folder / "train.jsonl", lines[:29])
    write_jsonl(folder / "unseen.jsonl", lines[29:])
    return folder


def small_arguments(inputs: Path, out: Path) -> list[str]:
    """The command line of a short run on those inputs."""
    of_model = ["--model", str(inputs / "model"), "--data", str(inputs / "train.jsonl")]
    return [*SMALL, *of_model, "--out", str(out)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(arguments: list[str], match: str, *, error: type[Exception] = ValueError) -> None:
    """The recipe stops with this message and leaves the folder as it found it."""
    folder = Path(arguments[arguments.index("--out") + 1])
    before = files(folder)
    with pytest.raises(error, match=match):
        main(arguments)
    assert files(folder) == before
    assert folder.exists() == bool(before)
