"""The training loop that every recipe shares, resumable bit for bit after ``kill -9``."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from companion.training.checkpoints import check_writable, read_checkpoint, write_checkpoint
from companion.training.whole_file import drop_partial, sole_writer

__all__ = ["Measures", "Stateful", "fit"]

Measures = float | Tensor | Mapping[str, float | Tensor]
History = dict[str, list[float]]


class Stateful(Protocol):
    """What modules, optimizers, schedulers and gradient scalers have in common."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


def fit(
    step: Callable[[int], Measures],
    *,
    steps: int,
    state: Mapping[str, Stateful] | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 100,
    resume: bool = True,
    save: bool = True,
    progress: bool = True,
) -> History:
    """Run ``step(i)`` for i = 0 … steps−1 and return what every step measured.

    With ``checkpoint``, the run is saved every ``checkpoint_every`` steps and at the end, and the
    same call continues from the file if there is one. A run that was stopped and continued ends
    with the same bits as one that was not, if everything that changes stands in ``state`` or
    ``generators``. PyTorch's, NumPy's and Python's global random states are saved too, and set
    again when a run continues.

    Args:
        step: Fetches batch i, updates the model, returns a loss or named measures (each one
            number). A continued run may ask for batch 700 first. A returned tensor is read late,
            so that a GPU need not wait at every step.
        steps: Number of steps of the whole run, those before a restart included.
        state: Name → object with ``state_dict``: the model, its optimizer, its scheduler.
        generators: Name → generator that ``step`` draws from.
        checkpoint: File to save to and to continue from (safetensors).
        checkpoint_every: Steps between two saves.
        resume: False starts from step 0 and overwrites ``checkpoint``.
        save: False continues from ``checkpoint`` and never writes it: of several processes that
            train one model, one writes and all continue from its file.
        progress: Show a bar on standard error.

    Returns:
        Measure → one float per step; a bare loss is called ``"loss"``.

    Raises:
        ValueError: If the checkpoint is damaged, of another version, or of another run: another
            shape, another name, more steps. Nothing has been changed then.
        TypeError: If ``state`` holds what a checkpoint cannot; no step has been taken then.
        OSError: If the checkpoint cannot be written, or another run that writes it has not ended.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor(4.0))
        >>> sgd = torch.optim.SGD([w], lr=0.25)
        >>> def step(i):
        ...     loss = w**2
        ...     sgd.zero_grad()
        ...     loss.backward()
        ...     sgd.step()
        ...     return loss
        >>> fit(step, steps=3, progress=False)
        {'loss': [16.0, 4.0, 1.0]}
    """
    if checkpoint is not None and not state:
        raise ValueError("expected the objects to save in state= when checkpoint= is given")
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
    run = _Run(dict(state or {}), dict(generators or {}))
    if checkpoint is not None and resume and Path(checkpoint).exists():
        run.load(checkpoint, steps=steps)
    if checkpoint is not None:  # in every process: a sharded state is gathered from all of them
        check_writable(run.snapshot())
    with (
        _alone(checkpoint if save else None),
        tqdm(total=steps, initial=run.done, disable=not progress) as bar,
    ):
        for i in range(run.done, steps):
            run.record(step(i))
            if bar.update():
                bar.set_postfix({name: float(row[-1]) for name, row in run.history.items()})
            due = run.done % checkpoint_every == 0 or run.done == steps
            if checkpoint is not None and save and due:
                run.save(checkpoint)
    return run.measured()


@contextmanager
def _alone(checkpoint: Path | str | None) -> Iterator[None]:
    """The only run that writes this file, without the rest of one that was killed while it did."""
    if checkpoint is None:
        yield
        return
    path = Path(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(path):
        drop_partial(path)
        yield


class _Run:
    """How far a run has come, and everything its next step depends on."""

    def __init__(self, state: dict[str, Stateful], generators: dict[str, torch.Generator]) -> None:
        self.state = state
        self.generators = generators
        self.history: dict[str, list[float | Tensor]] = {}
        self.done = 0

    def record(self, measures: Measures) -> None:
        row = measures if isinstance(measures, Mapping) else {"loss": measures}
        if self.done and row.keys() != self.history.keys():
            raise ValueError(
                f"expected the measures {sorted(self.history)} at every step, got {sorted(row)}"
            )
        for name, value in row.items():
            # A copy: the step may change the tensor in place later.
            value = value.detach().clone() if isinstance(value, Tensor) else float(value)
            self.history.setdefault(name, []).append(value)
        self.done += 1

    def measured(self) -> History:
        for row in self.history.values():
            row[:] = map(float, row)
        return self.history

    def save(self, path: Path | str) -> None:
        rows = {k: torch.tensor(v, dtype=torch.float64) for k, v in self.measured().items()}
        write_checkpoint(path, {"done": self.done, "history": rows} | self.snapshot())

    def load(self, path: Path | str, *, steps: int) -> None:
        saved = read_checkpoint(path)
        if saved["done"] > steps:
            raise ValueError(f"expected at most steps={steps} in {path}, got {saved['done']}")
        before = copy.deepcopy(self.snapshot())
        _check_same_shape(before["state"], saved["state"], f"state in {path}")
        _check_same_shape(before["generators"], saved["generators"], f"generators in {path}")
        try:
            self._restore(saved)
        except Exception as error:
            self._restore(before)
            raise ValueError(f"{path} does not fit this run: {error}") from error
        self.history = {name: row.tolist() for name, row in saved["history"].items()}
        self.done = saved["done"]

    def snapshot(self) -> dict[str, Any]:
        return {
            "state": {name: dict(part.state_dict()) for name, part in self.state.items()},
            "generators": {name: g.get_state() for name, g in self.generators.items()},
            "global": _global_random_state(),
        }

    def _restore(self, snapshot: dict[str, Any]) -> None:
        for name, part in self.state.items():
            part.load_state_dict(snapshot["state"][name])
        for name, generator in self.generators.items():
            generator.set_state(snapshot["generators"][name])
        _set_global_random_state(snapshot["global"])


def _check_same_shape(expected: Any, got: Any, where: str, *, top: bool = True) -> None:
    """Compare the tensors that both hold; a fresh optimizer holds none yet."""
    if isinstance(expected, Tensor) and isinstance(got, Tensor):
        a, b = (f"{tuple(t.shape)} {t.dtype}" for t in (expected, got))
        if a != b:
            raise ValueError(f"expected {a}, got {b} for {where}")
    elif isinstance(expected, Mapping) and isinstance(got, Mapping):
        if top and expected.keys() != got.keys():
            raise ValueError(
                f"expected the names {sorted(expected)}, got {sorted(got)} for {where}"
            )
        for key in (key for key in expected if key in got):
            _check_same_shape(expected[key], got[key], f"{key} of {where}", top=False)


def _global_random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    used_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if used_cuda else [],
        "numpy": (str(kind), keys.tolist(), int(position), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }


def _set_global_random_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["torch"])
    if torch.cuda.is_available():
        for index, state in enumerate(saved["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, index)
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    random.setstate(saved["python"])
