"""The full-size recipe, run at toy size: results, resuming, command line."""

import pytest
import torch

from companion.gan import train
from companion.gan.images import ImageGenerator
from companion.gan.pictures import draw_samples
from companion.training.checkpoints import read_checkpoint

SMALL = "--width 4 --batch-size 7 --checkpoint-every 2"
BF16, FP16 = "--conditional --precision bf16", "--gamma 0.2 --precision fp16"


def run(folder, arguments):
    return train.main([*SMALL.split(), "--out", str(folder), *arguments.split()])


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        ("ring", "--loss hinge", "modes covered: "),
        ("digits", "--n-critic 2 --gamma 0.2", "precision: "),
        ("digits", "--conditional --ema 0", "precision: "),
    ],
)
def test_a_run_leaves_a_picture_and_a_judgement(data, more, said, tmp_path, capsys, device):
    history = run(tmp_path, f"--data {data} --steps 3 --device {device} {more}")
    lengths = {"discriminator_loss": 3, "penalty": 3, "generator_loss": 3}
    assert {name: len(row) for name, row in history.items()} == lengths
    assert any(history["penalty"]) == (data == "ring" or "--gamma" in more)
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("more", ["--data ring", f"--data digits {BF16}", f"--data digits {FP16}"])
def test_a_resumed_run_gives_the_same_bits(more, tmp_path, device):
    where = f"{more} --device {device}"
    whole = run(tmp_path / "whole", f"--steps 5 {where}")
    run(tmp_path / "halves", f"--steps 2 {where}")
    assert run(tmp_path / "halves", f"--steps 5 {where}") == whole
    one, other = (
        read_checkpoint(tmp_path / name / "checkpoint.safetensors")["state"]
        for name in ("whole", "halves")
    )
    for name in ("generator", "discriminator", "averaged"):
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def test_other_settings_are_refused_and_fresh_starts_again(tmp_path):
    other = "--steps 3 --loss minimax"
    run(tmp_path, "--steps 3")
    with pytest.raises(ValueError, match=r"expected loss='minimax' .* got loss='non-saturating'"):
        run(tmp_path, other)
    assert run(tmp_path, f"{other} --fresh") == run(tmp_path / "elsewhere", other)


def test_judged_are_the_averaged_generators_samples(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "precision_recall", lambda *of: seen.extend(of) or (0.0, 0.0))
    run(tmp_path, "--data digits --steps 3")
    saved = read_checkpoint(tmp_path / "checkpoint.safetensors")
    state = {name.removeprefix("module."): t for name, t in saved["state"]["averaged"].items()}
    generator, rng = ImageGenerator(64, width=4).eval(), torch.Generator()
    generator.load_state_dict({name: state[name] for name in generator.state_dict()})
    rng.set_state(saved["generators"]["rng"])
    real, fake = seen
    assert real.aminmax() == (-1, 1)  # tanh's bounds
    torch.testing.assert_close(fake, generator(torch.randn(1000, 64, generator=rng)))


def test_drawings():
    assert len(draw_samples(torch.zeros(5, 2)).axes[0].collections) == 1
    assert sum(len(axes.images) for axes in draw_samples(torch.zeros(45, 1, 8, 8)).axes) == 40


def test_the_ring_has_no_labels(capsys):
    with pytest.raises(SystemExit):
        train.main(["--conditional"])
    assert "--conditional: expected --data digits, got ring" in capsys.readouterr().err
