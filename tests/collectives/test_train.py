"""The training recipe against a loop written out, and against itself without an accident."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.testing import assert_close

from companion.collectives.recipe.tasks import TextTask, make_model
from companion.collectives.train import ALGORITHMS, main
from companion.data import digits, reference_text
from companion.training.checkpoints import read_checkpoint
from tests.collectives import ranks_train as ranks

SCRIPT = Path(__file__).with_name("interrupted_training.py")
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
CLOSE = {"atol": 1e-12, "rtol": 1e-10}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: on a busy machine two threads wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def results(folder, in_ranks):
    of_rank = in_ranks(ranks.train_cases, 2, str(folder))
    return [pickle.loads(cases) for cases in of_rank]


def digits_loss(model, rows):
    images, labels = digits()
    return F.cross_entropy(model(images[rows].double()), labels[rows])


def text_loss(model, rows):
    text = reference_text().encode()
    windows = torch.tensor([list(text[row : row + 65]) for row in rows.tolist()])
    return F.cross_entropy(model(windows[:, :-1]).transpose(1, 2), windows[:, 1:])


def alone(name):
    """Five steps of the whole batch in this process, without anything of the recipe."""
    count = len(reference_text().encode()) * 95 // 100 - 64
    loss_of, rows, optimizer = {
        "mlp": (digits_loss, 1500, lambda p: torch.optim.SGD(p, lr=0.1)),
        "cnn": (digits_loss, 1500, lambda p: torch.optim.Adam(p, lr=3e-3)),
        "transformer": (text_loss, count, lambda p: torch.optim.AdamW(p, lr=3e-3)),
    }[name]
    model = make_model(name, seed=0).double()
    optimizer, draws, losses = optimizer(model.parameters()), torch.Generator(), []
    draws.manual_seed(0)
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(model, torch.randint(rows, (7,), generator=draws))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def assert_same_bits(got, expected):
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(got[name], weight), name


# One result, however it is shared out ---------------------------------------------------------


@pytest.mark.parametrize(("name", "zero"), ranks.MODEL_STAGES)
def test_two_ranks_train_as_one_loop_with_the_whole_batch(results, name, zero):
    losses, model = alone(name)
    for of_rank in results:
        history, weights = of_rank["models"][name, zero]
        assert history["loss"] == pytest.approx(losses, rel=1e-9)
        for key, expected in model.state_dict().items():
            assert_close(weights[key], expected, **CLOSE)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm(results, algorithm):
    _, model = alone("mlp")
    for of_rank in results:
        for key, expected in model.state_dict().items():
            assert_close(of_rank["algorithms"][algorithm][1][key], expected, **CLOSE)


def test_held_out_by_hand(results):
    images, labels = digits()
    history, weights = results[1]["models"]["mlp", 0]
    model = make_model("mlp", seed=1).double()
    model.load_state_dict(weights)
    right = sum(
        model(images[i : i + 1].double()).argmax().item() == labels[i].item()
        for i in range(1500, 1797)
    )
    assert history["accuracy"] == pytest.approx(right / 297)
    assert 0 < right < 297


def test_continued_run_has_the_bits_of_the_whole_one(results):
    for of_rank in results:
        history, weights = of_rank["continued"]
        whole, expected = of_rank["whole"][2]
        assert history == whole
        assert len(history["loss"]) == 10
        assert_same_bits(weights, expected)


def test_one_process_carries_on_where_two_stopped(results, folder, capfd):
    """And on without ZeRO: the checkpoint holds the plain optimizer's state."""
    out, losses = folder / "transformer-2", results[0]["models"]["transformer", 2][0]["loss"]
    of_model = [*ranks.EXACT, *ranks.MODELS["transformer"], "--out", str(out)]
    history = main([*of_model, "--steps", "7"])
    assert history["loss"][:5] == pytest.approx(losses, rel=1e-9)
    fresh = main([*of_model[:-1], str(folder / "fresh"), "--steps", "7"])
    assert history["loss"] == pytest.approx(fresh["loss"], rel=1e-9)
    expected = load_file(folder / "fresh" / "model.safetensors")
    for name, weight in load_file(out / "model.safetensors").items():
        assert_close(weight, expected[name], **CLOSE)
    assert not torch.distributed.is_initialized()
    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith("1 rank, ring, ZeRO stage 0: transformer with 133,440 parameters, st")
    assert said[0].endswith("step 5 of 7")
    # float64: 8 bytes, twice that for Adam, and a counter of 4 bytes for each of 21 tensors:
    # embedding, head and last norm, and in both blocks four, three and two norms.
    count, tensors = 133_440 * 8, 3 + 2 * (4 + 3 + 2)
    assert said[1] == (
        f"bytes on rank 0: weights {count:,}, gradients {count:,}, "
        f"optimizer {2 * count + 4 * tensors:,}"
    )


def test_learns_to_read_digits(tmp_path):
    history = main(["--steps", "250", "--quiet", "--out", str(tmp_path)])
    assert history["accuracy"] > 0.9
    assert main(["--steps", "250", "--quiet", "--out", str(tmp_path)]) == history  # finished


def test_fresh_forgets_the_earlier_run(tmp_path):
    arguments = ["--quiet", "--out", str(tmp_path), "--steps", "2"]
    main(arguments)
    fresh = main([*arguments, "--fresh", "--seed", "1"])
    assert len(fresh["loss"]) == 2
    with pytest.raises(FloatingPointError):  # before its first save
        main([*arguments, "--fresh", "--optimizer", "sgd", "--learning-rate", "1e38"])
    assert not (tmp_path / "checkpoint.safetensors").exists()


# Refusals -------------------------------------------------------------------------------------


def test_messages(results, folder):
    here = folder / "whole-0" / "checkpoint.safetensors"
    expected = {
        "ranks": "ValueError: expected {'learning_rate': 0.1}, as process 0 has, got "
        "{'learning_rate': 0.2} in process 1: do all processes see the same files?",
        "batch": "ValueError: expected a batch of at least 2 rows, one for every rank, got "
        "--batch-size 1",
        "settings": f"ValueError: expected seed=3 in {here}, got seed=0; start again with --fresh, "
        "or write to another --out",
        "steps": f"ValueError: expected at most steps=9 in {here}, got 10",
        "model": "ValueError: expected --model transformer for --data text, got cnn",
        "algorithm": "ValueError: expected --algorithm ring for --zero 1, which is made of the "
        "ring's two halves, got tree",
    }
    for of_rank in results:
        for name, message in expected.items():
            assert of_rank["errors"][name] == message
        assert of_rank["errors"]["finite"].startswith("FloatingPointError: expected a finite loss,")
    saved = read_checkpoint(folder / "finite" / "checkpoint.safetensors")
    assert torch.isfinite(saved["history"]["loss"]).all()


def test_arguments(capsys):
    for wrong in (["--steps", "0"], ["--zero", "3"], ["--algorithm", "star"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "expected at least 1, got 0" in capsys.readouterr().err


# Parts ----------------------------------------------------------------------------------------


def test_text_rows_reach_to_the_end_of_what_is_learned():
    task = TextTask(device=torch.device("cpu"), context=5)
    text = torch.tensor(list(reference_text().encode()))
    learned = text[: len(text) * 95 // 100]
    seen = []

    def model(tokens_BT):
        seen.append(tokens_BT)
        return torch.zeros(*tokens_BT.shape, 256)

    loss = task.loss_sum(model, torch.tensor([0, task.rows - 1]))
    assert loss.item() == pytest.approx(2 * torch.log(torch.tensor(256.0)).item())
    assert torch.equal(seen[0], torch.stack([learned[:5], learned[-6:-1]]))


# Accidents ------------------------------------------------------------------------------------


def torchrun(ranks_here, *arguments, death="0", rank="0"):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return subprocess.run(
        [*command, str(ranks_here), SCRIPT, death, rank, *map(str, arguments)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )


def without_an_agent(ranks_here, *arguments, death, rank):
    """The ranks as torchrun starts them, but with nobody who would end them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(ranks_here), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, death, rank, *map(str, arguments)],
            env=os.environ | ENVIRONMENT | group | {"RANK": str(number)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(ranks_here)
    ]
    try:
        return [(one.communicate(timeout=200)[1], one.returncode) for one in started]
    finally:
        for one in started:
            one.kill()


# Rank 1 dies in its seventh backward, the last checkpoint is of step 4.
DYING = [*ranks.WHOLE, "--zero", "2", "--out"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_rank_is_reported(tmp_path):
    (said, status), (_, killed) = without_an_agent(2, *DYING, tmp_path, death="7", rank="1")
    assert killed == -signal.SIGKILL
    assert status == 1
    first, last = said.splitlines()[-2:]
    assert first.startswith("rank 0 of 2 lost rank 1 while ")
    assert last == "The same command carries on from the last checkpoint."
    assert "Traceback" not in said
    assert read_checkpoint(tmp_path / "checkpoint.safetensors")["done"] == 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_torchrun_ends_all_ranks_and_the_next_one_carries_on(results, tmp_path):
    dead = torchrun(2, *DYING, tmp_path, death="7", rank="1")
    assert dead.returncode != 0
    assert read_checkpoint(tmp_path / "checkpoint.safetensors")["done"] == 4
    done = torchrun(2, *DYING, tmp_path)
    assert done.returncode == 0, done.stderr
    whole, weights = results[0]["whole"][2]
    assert_same_bits(load_file(tmp_path / "model.safetensors"), weights)
    saved = read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert saved["history"]["loss"].tolist() == whole["loss"]
