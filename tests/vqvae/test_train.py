"""The full-size recipe, run at toy size: results, resuming, command line."""

import math
import re

import pytest
import torch

from companion.data import digits
from companion.training.checkpoints import read_checkpoint
from companion.vqvae import rotate_through, straight_through, train

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = "--width 4 --residual-blocks 1 --batch-size 7 --checkpoint-every 2"
CODEBOOK = "--codes 9 --dim 3"


def run(folder, arguments):
    return train.main([*SMALL.split(), "--out", str(folder), *arguments.split()])


def shuffled():
    return digits()[0][torch.randperm(1797, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("more", "codes", "levels"),
    [
        (f"--quantizer gradient {CODEBOOK} --gradient rotation", 9, 1),
        (f"--quantizer gradient {CODEBOOK} --residual-levels 2", 9, 2),
        (f"{CODEBOOK} --kmeans-start", 9, 1),
        (f"{CODEBOOK} --residual-levels 3 --no-revival", 9, 3),
        ("--quantizer fsq --fsq-levels 3 5", 15, 1),
    ],
)
def test_a_run_leaves_a_picture_and_a_judgement(more, codes, levels, tmp_path, capsys, device):
    history = run(tmp_path, f"--steps 3 --device {device} {more}")
    assert {name: len(row) for name, row in history.items()} == {"loss": 3, "perplexity": 3}
    assert (tmp_path / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
    pattern = (
        r"(\d+) bits an image, mean squared error on 225 held-out images (0\.\d{5}); "
        rf"codes in use (\S+) of {codes}, perplexity (\S+)"
    )
    bits, error, share, even = map(float, re.match(pattern, capsys.readouterr().out).groups())
    assert bits == round(4 * 4 * levels * math.log2(codes))
    assert 0 < error < 1
    assert 1 / codes <= share <= 1 <= even <= codes


@pytest.mark.parametrize(
    "more",
    [
        f"{CODEBOOK} --kmeans-start",
        f"{CODEBOOK} --precision fp16",
        "--quantizer fsq --fsq-levels 3 5",
    ],
)
def test_a_resumed_run_gives_the_same_bits(more, tmp_path, device):
    """A code that nothing chooses is below 0.7 after the first step, and is drawn anew."""
    where = f"{more} --device {device}"
    where += "" if "fsq" in more else " --decay 0.5 --revive-below 0.7"
    whole = run(tmp_path / "whole", f"--steps 5 {where}")
    run(tmp_path / "halves", f"--steps 3 {where}")
    assert run(tmp_path / "halves", f"--steps 5 {where}") == whole
    one, other = (
        read_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "halves")
    )
    torch.testing.assert_close(one["state"]["model"], other["state"]["model"], rtol=0, atol=0)
    assert torch.equal(one["generators"]["rng"], other["generators"]["rng"])


def test_other_settings_are_refused_and_fresh_starts_again(tmp_path, monkeypatch, capsys):
    """Where nothing draws, a line says so."""
    other = f"--steps 2 {CODEBOOK} --beta 0.5"
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    first = run(tmp_path, f"--steps 2 {CODEBOOK}")
    assert f"{tmp_path / 'reconstructions.png'} is not drawn without" in capsys.readouterr().out
    assert not (tmp_path / "reconstructions.png").exists()
    with pytest.raises(ValueError, match=r"expected beta=0.5 .* got beta=0.25"):
        run(tmp_path, other)
    again = run(tmp_path, f"{other} --fresh")
    assert again["loss"] != first["loss"]


def test_one_image_in_eight_is_held_out_judged_and_drawn(tmp_path, monkeypatch, capsys):
    seen, trained = [], []
    monkeypatch.setattr(train, "_save_picture", lambda rows, file: seen.append(rows))
    step = train.VQVAEStep
    keep = lambda *of, **more: trained.append(of) or step(*of, **more)  # noqa: E731
    monkeypatch.setattr(train, "VQVAEStep", keep)
    run(tmp_path, f"--steps 2 {CODEBOOK}")
    ((model, images),) = trained
    assert not model.training
    held_out = shuffled()[::8]
    assert len(images) == 1797 - len(held_out)
    assert not {x.numpy().tobytes() for x in images} & {x.numpy().tobytes() for x in held_out}
    assert torch.equal(seen[0]["image"], held_out[:12])
    with torch.no_grad():
        made = model(held_out).reconstruction
    torch.testing.assert_close(seen[0]["reconstruction"], made[:12])
    error = (made - held_out).square().mean()
    assert f"on 225 held-out images {error:.5f};" in capsys.readouterr().out


def test_rival_with_one_code_is_the_mean_patch(tmp_path, capsys):
    run(tmp_path, "--steps 1 --codes 1 --dim 3")
    patches = shuffled().unflatten(3, (4, 2)).unflatten(2, (4, 2))
    held_out = torch.arange(1797) % 8 == 0
    mean = patches[~held_out].mean((0, 2, 4), keepdim=True)
    expected = (patches[held_out] - mean).square().mean().item()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "k-means" in line)
    assert float(line.split()[-1]) == pytest.approx(expected, abs=1e-5)  # five digits are printed


def test_photographs_are_tiles_in_colour_of_64_codes(tmp_path, monkeypatch, capsys):
    asked = []
    tiles = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    keep = lambda *of, **more: asked.append((of, more)) or tiles  # noqa: E731
    monkeypatch.setattr(train, "photo_tiles", keep)
    run(tmp_path, "--data photos --steps 1 --codes 4 --dim 3")
    assert asked == [((32,), {"shrink": 2})]
    assert capsys.readouterr().out.startswith("128 bits an image, mean squared error on 2 held-out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--quantizer fsq --codes 9", "--codes: expected none with --quantizer fsq, got 9"),
        ("--quantizer gradient --kmeans-start", "--kmeans-start: expected none with --quantizer g"),
        ("--fsq-levels 3 3", "--fsq-levels: expected none with --quantizer ema, got [3, 3]"),
        ("--residual-levels 2 --gradient rotation", "--gradient: expected straight with --resid"),
        ("--codes 0", "expected at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit(arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, arguments)
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_options_reach_the_quantizer():
    def built(arguments):
        options = train._parse(arguments.split())
        return train._quantizer(options, torch.Generator().manual_seed(0))

    plain = built("")
    assert (plain.revive_below, plain.through, plain.kmeans_start) == (
        0.25,
        straight_through,
        False,
    )
    repaired = built("--revive-below 0.5 --decay 0.9 --kmeans-start --gradient rotation --beta 2")
    assert (repaired.revive_below, repaired.decay, repaired.beta) == (0.5, 0.9, 2)
    assert (repaired.through, repaired.kmeans_start) == (rotate_through, True)
    assert built("--no-revival").revive_below is None
    learnt = built("--quantizer gradient --codes 7 --dim 3 --gradient rotation")
    assert (learnt.codebook.shape, learnt.through) == ((7, 3), rotate_through)
    stages = built("--residual-levels 3 --codes 5").quantizers
    assert [stage.num_codes for stage in stages] == [5, 5, 5]
