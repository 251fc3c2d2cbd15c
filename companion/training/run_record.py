"""What a run remembers beside its parameters: its settings, its evaluations and a log."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from companion.training.checkpoints import read_checkpoint
from companion.training.whole_file import write_whole

__all__ = ["Evaluations", "Log", "Settings"]


class Settings:
    """The settings that decide a run's numbers; a checkpoint made with others is refused.

    Args:
        values: Name → plain value.
        checkpoint: File that the run is saved to.
    """

    def __init__(self, values: Mapping[str, Any], checkpoint: Path) -> None:
        self.values = dict(values)
        self.checkpoint = checkpoint

    def check(self) -> int:
        """How many steps the checkpoint holds; 0 if there is none.

        Raises:
            ValueError: If the file is damaged or was made with other settings.
        """
        if not self.checkpoint.exists():
            return 0
        saved = read_checkpoint(self.checkpoint)
        self.load_state_dict(saved["state"].get("settings", {}))
        return saved["done"]

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        names = sorted(self.values.keys() | state_dict.keys())
        other = [n for n in names if self.values.get(n) != state_dict.get(n)]
        if other:
            expected, got = (
                ", ".join(f"{name}={values.get(name)!r}" for name in other)
                for values in (self.values, state_dict)
            )
            raise ValueError(
                f"expected {expected} in {self.checkpoint}, got {got}; "
                "start again with --fresh, or write to another --out"
            )


class Evaluations:
    """Held-out losses and the steps they were measured after."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []

    def add(self, step: int, loss: float) -> float:
        """Keep a measurement, and return it."""
        self.steps.append(step)
        self.losses.append(loss)
        return loss

    def measured(self) -> dict[str, list[float]]:
        """Two columns, empty where nothing was held out."""
        return {"held_out_step": list(map(float, self.steps)), "held_out_loss": self.losses}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps), "losses": list(self.losses)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.steps, self.losses = list(state_dict["steps"]), list(state_dict["losses"])


class Log:
    """One JSON object per line; a continued run first drops the lines it will write again.

    Args:
        path: File; its folder exists.
        done: Steps that the run has behind it. Lines of later steps, and a line that a killed
            process left unfinished, are dropped.
    """

    def __init__(self, path: Path, *, done: int) -> None:
        self.path = path
        kept = []
        if done and path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        kept = [line for line in kept if _step_of(line) <= done]
        text = "".join(line + "\n" for line in kept)
        write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))

    def write(self, line: Mapping[str, float]) -> None:
        """Append one line; it is in the file when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
