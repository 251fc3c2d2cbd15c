"""The full-size recipe, run at toy size: results, resuming, command line."""

import ot
import pytest
import torch

from companion.wasserstein.train import main, sample_distance

SMALL = ["--width", "8", "--depth", "1", "--batch-size", "7", "--checkpoint-every", "2"]


def run(folder, *arguments):
    return main([*SMALL, "--out", str(folder), *arguments])


@pytest.mark.parametrize("data", ["ring", "digits"])
def test_a_run_leaves_a_checkpoint_and_a_picture(data, tmp_path, capsys, device):
    history = run(tmp_path, "--data", data, "--steps", "3", "--device", device)
    assert {len(row) for row in history.values()} == {3}
    assert set(history) == {"critic_loss", "penalty", "generator_loss"}
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert "W1 of 256 samples to 256 data: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("constraint", "precision"), [("penalty", "fp32"), ("spectral", "bf16"), ("penalty", "fp16")]
)
def test_a_resumed_run_gives_the_same_bits(constraint, precision, tmp_path, device):
    where = ["--constraint", constraint, "--precision", precision, "--device", device]
    whole = run(tmp_path / "whole", "--steps", "5", *where)
    run(tmp_path / "halves", "--steps", "2", *where)
    halves = run(tmp_path / "halves", "--steps", "5", *where)
    assert halves == whole
    pictures = [(tmp_path / name / "samples.png").read_bytes() for name in ("whole", "halves")]
    assert pictures[0] == pictures[1]


def test_fresh_ignores_the_checkpoint(tmp_path):
    run(tmp_path, "--steps", "3", "--seed", "1")
    other = run(tmp_path, "--steps", "3", "--seed", "2", "--fresh")
    assert other == run(tmp_path / "elsewhere", "--steps", "3", "--seed", "2")


def test_another_width_is_a_clear_error(tmp_path):
    run(tmp_path, "--steps", "2")
    with pytest.raises(ValueError, match=r"expected \(9,.* got \(8,"):
        run(tmp_path, "--steps", "2", "--width", "9")


def test_distance_between_samples_against_pot():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 1, 2, 3, generator=generator)
    y = torch.randn(11, 1, 2, 3, generator=generator)
    cost = torch.cdist(x.flatten(1).double(), y.flatten(1).double())
    assert sample_distance(x, y) == pytest.approx(ot.emd2([], [], cost.numpy()), rel=1e-5)


def test_unknown_data(capsys):
    with pytest.raises(SystemExit):
        main(["--data", "faces"])
    assert "invalid choice: 'faces'" in capsys.readouterr().err
