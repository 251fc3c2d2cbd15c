"""The loop itself: what it calls, what it returns, what it refuses."""

import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from companion.training import fit
from companion.training.checkpoints import read_checkpoint, write_checkpoint


class Run:
    """A tiny model with its optimizer and one step of training."""

    def __init__(self, width: int = 5, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(width)
        self.model = nn.Linear(3, width, dtype=dtype)
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        self.adam = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.state = {"model": self.model, "adam": self.adam}

    def step(self, x: torch.Tensor) -> torch.Tensor:
        loss = self.model(x).square().mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss

    def fit(self, steps: int, checkpoint, **options) -> dict[str, list[float]]:
        def step(i: int) -> torch.Tensor:
            return self.step(torch.full((7, 3), float(i + 1), dtype=self.model.weight.dtype))

        options = {"state": self.state, "progress": False} | options
        return fit(step, steps=steps, checkpoint=checkpoint, **options)

    def bits(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "one.safetensors"


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_loss_follows_the_hand_computed_path():
    """Gradient descent on (w − 1)²  with rate 1/4 halves the distance: 3, 1.5, 0.75."""
    w = torch.tensor(4.0)

    def step(i: int) -> dict[str, float]:
        distance = w.item() - 1.0
        w.sub_(0.25 * 2 * distance)
        return {"distance": distance, "w": w}

    history = fit(step, steps=3, progress=False)
    assert history["distance"] == [3.0, 1.5, 0.75]
    assert history["w"] == [2.5, 1.75, 1.375]  # as it was then, though w has moved on


def test_steps_are_called_by_number():
    asked = []
    fit(lambda i: asked.append(i) or float(i), steps=4, progress=False)
    assert asked == [0, 1, 2, 3]


def test_history_holds_one_float_per_step_and_measure():
    history = fit(
        lambda i: {"loss": torch.tensor(2.0 * i, requires_grad=True), "steps": i},
        steps=3,
        progress=False,
    )
    assert history == {"loss": [0.0, 2.0, 4.0], "steps": [0.0, 1.0, 2.0]}
    assert all(type(value) is float for row in history.values() for value in row)


def test_progress_bar_goes_to_standard_error(capsys):
    fit(lambda i: 1.0, steps=3)
    output = capsys.readouterr()
    assert output.out == ""
    assert "3/3" in output.err
    fit(lambda i: 1.0, steps=3, progress=False)
    assert capsys.readouterr().err == ""


def test_continued_run_equals_one_run(path, tmp_path):
    whole, parts = Run(), Run()
    expected = whole.fit(10, tmp_path / "whole.safetensors", checkpoint_every=3)
    parts.fit(4, path, checkpoint_every=3)
    fresh = Run()
    history = fresh.fit(10, path, checkpoint_every=3)
    assert history == expected
    assert equal(fresh.bits(), whole.bits())
    assert not equal(fresh.bits(), Run().bits())


def test_history_comes_back_in_full_precision(path):
    run = Run()
    options = {"state": run.state, "checkpoint": path, "progress": False}
    whole = fit(lambda i: i / 3, steps=2, **options)
    assert fit(lambda i: i / 3, steps=2, **options) == whole == {"loss": [0, 1 / 3]}


def test_bar_of_a_continued_run_begins_where_the_run_stopped(path, capsys):
    Run().fit(3, path)
    Run().fit(4, path, progress=True)
    assert "4/4" in capsys.readouterr().err


def test_finished_run_is_not_trained_again(path):
    run = Run()
    history = run.fit(3, path)
    again = Run()
    assert again.fit(3, path) == history
    assert equal(again.bits(), run.bits())


def test_resume_false_starts_again(path):
    Run().fit(5, path)  # a longer run: continued, it would be refused
    assert Run().fit(3, path, resume=False) == Run().fit(3, None)
    assert read_checkpoint(path)["done"] == 3


def test_save_false_continues_from_the_file_and_leaves_it_alone(path):
    expected = Run().fit(10, None)
    assert Run().fit(4, path, save=False) == Run().fit(4, None)
    assert not path.exists()
    Run().fit(4, path)
    before = path.read_bytes()
    assert Run().fit(10, path, save=False, checkpoint_every=1) == expected
    asked = []
    options = {"state": Run().state, "checkpoint": path, "save": False, "progress": False}
    fit(lambda i: asked.append(i) or 0.0, steps=4, **options)
    assert asked == []  # it did continue from step 4
    assert path.read_bytes() == before


def test_checkpoint_every_sets_the_rhythm(path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        "companion.training.loop.write_checkpoint", lambda path, tree: saved.append(tree["done"])
    )
    Run().fit(10, path, checkpoint_every=4)
    assert saved == [4, 8, 10]


def test_global_generators_are_brought_back(path):
    run = Run()

    def draw(i: int) -> dict[str, float]:
        numpy_number = float(np.random.rand())  # noqa: NPY002
        return {"torch": torch.rand(()), "numpy": numpy_number, "python": random.random()}

    options = {"state": run.state, "progress": False, "checkpoint": path}
    whole = fit(draw, steps=4, **options | {"checkpoint": None})
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    fit(draw, steps=2, **options)
    expected = draw(0)
    torch.manual_seed(2), random.seed(2), np.random.seed(2)  # noqa: NPY002
    resumed = fit(draw, steps=3, **options)
    assert {name: row[2] for name, row in resumed.items()} == {
        name: float(value) for name, value in expected.items()
    }
    assert resumed["torch"][2] != whole["torch"][2]


def refuse(run: Run, path, match: str, **options) -> None:
    """The load fails with this message, and model and random numbers are as before."""
    before, random_before = run.bits(), torch.get_rng_state()
    optimizer_before = str(run.adam.state_dict())
    with pytest.raises(ValueError, match=match):
        run.fit(8, path, **options)
    assert equal(run.bits(), before)
    assert str(run.adam.state_dict()) == optimizer_before
    assert torch.equal(torch.get_rng_state(), random_before)


def test_another_shape_is_named(path):
    Run(width=5).fit(2, path)
    refuse(
        Run(width=7),
        path,
        r"expected \(7, 3\) torch.float32, got \(5, 3\) torch.float32 for weight of model",
    )


def test_another_type_is_named(path):
    Run().fit(2, path)
    refuse(Run(dtype=torch.float64), path, r"expected .*float64, got .*float32 for")


def test_missing_tensor_is_named_and_the_model_left_alone(path):
    """The state that comes first loads before the second fails: it must be put back."""
    run = Run()
    run.fit(2, path)
    tree = read_checkpoint(path)
    tree["state"]["second"] = {"weight": torch.zeros(2, 2)}
    write_checkpoint(path, tree)
    other = Run(width=5)
    other.state["second"] = nn.Linear(2, 2)
    refuse(other, path, r"does not fit this run: (?s:.*)Missing key.*bias")


def test_model_is_put_back_when_its_optimizer_refuses(path):
    """An optimizer raises a ValueError of its own, after the model was loaded."""
    run = Run()
    run.fit(2, path)
    tree = read_checkpoint(path)
    tree["state"]["adam"]["param_groups"] *= 2
    write_checkpoint(path, tree)
    refuse(Run(), path, r"does not fit this run: (?s:.*)parameter groups")


def test_other_names_are_listed(path):
    Run().fit(2, path)
    run = Run()
    run.state["teacher"] = nn.Linear(2, 2)
    refuse(run, path, r"expected the names \['adam', 'model', 'teacher'\], got \['adam', 'model'\]")


def test_other_generators_are_listed(path):
    Run().fit(2, path)
    refuse(
        Run(), path, r"expected the names \['x'\], got \[\]", generators={"x": torch.Generator()}
    )


def test_longer_run_is_refused(path):
    Run().fit(9, path)
    refuse(Run(), path, r"expected at most steps=8 in .*, got 9")


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_truncated_file_is_named(path, kept):
    Run().fit(2, path)
    size = path.stat().st_size
    os.truncate(path, int(kept * size) if isinstance(kept, float) else kept % size)
    refuse(Run(), path, r"expected a whole checkpoint in .*, got a truncated or damaged file")


def test_measures_must_stay_the_same():
    with pytest.raises(ValueError, match=r"expected the measures \['loss'\] .* got \['other'\]"):
        fit(lambda i: {"loss" if i == 0 else "other": 1.0}, steps=2, progress=False)


def test_checkpoint_needs_state(path):
    with pytest.raises(ValueError, match="expected the objects to save in state="):
        fit(lambda i: 1.0, steps=1, checkpoint=path)


def test_what_cannot_be_saved_is_told_before_the_first_step(path):
    class Odd:
        def state_dict(self):
            return {"where": complex(1, 2)}

    taken = []
    with pytest.raises(TypeError, match="plain values in a state, got <class 'complex'> at 'state"):
        fit(taken.append, steps=3, state={"odd": Odd()}, checkpoint=path)
    assert taken == []
    assert not path.exists()


def test_checkpoint_every_is_at_least_one(path):
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1, got 0"):
        Run().fit(2, path, checkpoint_every=0)


@pytest.mark.gpu
def test_continued_run_on_the_gpu_equals_one_run(path, tmp_path):
    def trained(*lengths: int, path) -> list[torch.Tensor]:
        for steps in lengths:
            torch.manual_seed(0)
            run = Run()
            run.model.cuda()
            rng = torch.Generator("cuda").manual_seed(3)

            def step(i: int, run: Run = run, rng: torch.Generator = rng) -> torch.Tensor:
                batch = torch.randn(7, 3, device="cuda", generator=rng)
                return run.step(batch + torch.rand((), device="cuda"))

            fit(
                step,
                steps=steps,
                state=run.state,
                generators={"rng": rng},
                checkpoint=path,
                progress=False,
            )
        return run.bits()

    assert equal(trained(9, path=tmp_path / "whole"), trained(4, 9, path=path))
