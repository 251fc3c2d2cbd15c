"""The full-size recipe at toy size: what it learns, refuses, survives, and shares out."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from companion.data import table_to_text
from companion.language.fine_tuning import FineTuning
from companion.language.pretrained import split
from companion.language.records import NO_LABEL
from companion.lora.injection import lora_parameters
from companion.lora.lora_plus import lora_plus_groups
from companion.lora.preparation import default_targets
from companion.lora.train import main
from companion.training.checkpoints import read_checkpoint
from companion.training.run_record import Log
from tests.language.test_fine_tuning import EXAMPLES, adapted
from tests.language.tiny_language_model import CHAT, llama, save, tokenizer, write_jsonl

SCRIPT = Path(__file__).with_name("interrupted_fine_tuning.py")
SUMS = [(a, b) for a in range(6) for b in range(6)]
RECORDS = [
    {"prompt": f"{a} + {b} =", "completion": f" {a + b}" + " red" * (a % 4)} for a, b in SUMS
]
TARGETS = ["--targets", "q_proj", "v_proj", "down_proj", "lm_head"]
SMALL = ["--rank", "3", "--batch-size", "7", "--learning-rate", "0.02", "--checkpoint-every", "4"]

# PEFT asks transformers for a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a model, records to learn and records to evaluate on."""
    folder = tmp_path_factory.mktemp("inputs")
    save(folder / "model", chat=CHAT)
    lines = [json.dumps(record) for record in RECORDS]
    write_jsonl(folder / "train.jsonl", lines[:29])
    write_jsonl(folder / "unseen.jsonl", lines[29:])
    return folder


@pytest.fixture
def arguments(inputs, tmp_path) -> list[str]:
    of_model = ["--model", str(inputs / "model"), "--data", str(inputs / "train.jsonl")]
    return [*SMALL, *of_model, "--out", str(tmp_path / "run")]


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


# What it learns -------------------------------------------------------------------------------


def their_loss(model: torch.nn.Module, folder: Path, file: Path) -> float:
    """transformers' own loss of every record on its own, weighted by its tokens."""
    words, nats, count = tokenizer(chat=CHAT), 0.0, 0
    for line in file.read_text().splitlines():
        record = json.loads(line)
        prompt = words(record["prompt"]).input_ids
        completion = [*words(record["completion"]).input_ids, words.eos_token_id]
        tokens = torch.tensor([prompt + completion])
        labels = torch.tensor([[NO_LABEL] * len(prompt) + completion])
        with torch.no_grad():
            nats += model(tokens, labels=labels).loss.item() * len(completion)
        count += len(completion)
    return nats / count


@pytest.mark.parametrize(
    "options", [["--dropout", "0.1"], ["--variant", "rslora"], ["--variant", "dora"],
                ["--variant", "pissa"], ["--lora-plus-ratio", "4", "--precision", "bf16"]],
    ids=lambda options: "-".join(options).replace("--", ""),
)  # fmt: skip
def test_loss_falls_and_the_adapter_opens_in_peft_with_the_reported_loss(
    options, inputs, arguments, tmp_path, capsys
):
    unseen = inputs / "unseen.jsonl"
    when = ["--steps", "40", "--evaluate-every", "15", "--held-out", str(unseen)]
    history = main([*arguments, *TARGETS, *options, *when])
    assert sum(history["loss"][-5:]) / 5 < sum(history["loss"][:5]) / 5 - 0.5
    assert history["held_out_step"] == [0, 15, 30, 40]
    first, *_, last = history["held_out_loss"]
    base = AutoModelForCausalLM.from_pretrained(inputs / "model")
    tolerance = 0.02 if "bf16" in options else 1e-5
    assert first == pytest.approx(their_loss(base, inputs, unseen), abs=tolerance)
    theirs = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    assert last == pytest.approx(their_loss(theirs, inputs, unseen), abs=tolerance)
    assert last < first - 0.3
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("1461 parameters in 7 layers" if "dora" not in options else "1")
    assert out[1] == f"step 0: held-out loss {first:.4f} nats per token"
    assert out[4].endswith(f"held-out loss {last:.4f} nats per token")
    assert out[5:] == [f"adapter: {tmp_path / 'run' / 'adapter'}"]


@pytest.mark.parametrize(
    "option",
    [
        ["--rank", "2"],
        ["--alpha", "4"],
        ["--dropout", "0.4"],
        ["--variant", "rslora"],
        ["--four-bit"],
        ["--lora-plus-ratio", "4"],
        ["--targets", "v_proj"],
        ["--batch-size", "8"],
        ["--learning-rate", "0.01"],
        ["--warmup", "2"],
        ["--max-tokens", "6"],
        ["--precision", "bf16"],
        ["--seed", "1"],
        ["--held-out-fraction", "0.1"],
    ],
    ids=lambda option: option[0],
)
def test_every_option_makes_a_difference(option, arguments, tmp_path):
    arguments = [*arguments, "--steps", "4"]
    other = main([*arguments, *option, "--out", str(tmp_path / "other")])
    assert other["loss"][2:] != main(arguments)["loss"][2:]


def test_log_tells_every_step(inputs, arguments, tmp_path):
    history = main([*arguments, "--steps", "5", "--evaluate-every", "2", "--warmup", "1"])
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    for name in ("loss", "learning_rate", "tokens"):
        assert [line[name] for line in lines] == history[name]
    assert history["learning_rate"] == pytest.approx([0.01, 0.02, 0.015, 0.01, 0.005])
    assert history["held_out_loss"] == []


def test_checkpoint_holds_no_frozen_weight(arguments, tmp_path):
    main([*arguments, "--steps", "2"])
    saved = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    adapters = saved["state"]["adapters"]
    assert len(adapters) == 8
    assert all(name.endswith((".a_RI", ".b_OR")) for name in adapters)
    assert sorted(saved["state"]) == [
        *("adapters", "evaluations", "optimizer", "schedule", "settings"),
    ]  # fmt: skip


def test_lora_plus_gives_b_its_own_rate():
    model = adapted()
    groups = lora_plus_groups(model, lr=0.01, ratio=8.0)
    tuning = FineTuning(model, groups, EXAMPLES, steps=6, batch_size=4, learning_rate=0.01)
    tuning(0)
    rates = {
        tuple(p.shape): group["lr"]
        for group in tuning.optimizer.param_groups
        for p in group["params"]
    }
    after_one = 0.01 * 5 / 6
    assert rates == pytest.approx({(3, 12): after_one, (12, 3): 8 * after_one})


def test_loss_that_is_not_finite_changes_nothing(arguments, tmp_path, monkeypatch):
    main([*arguments, "--steps", "4"])
    model = adapted()
    tuning = FineTuning(
        model, lora_parameters(model), EXAMPLES, steps=9, batch_size=4, learning_rate=0.01
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = torch.nn.functional.cross_entropy
    monkeypatch.setattr("torch.nn.functional.cross_entropy", lambda *a: loss(*a) * math.nan)
    with pytest.raises(FloatingPointError, match="expected a finite loss at step 3, got nan"):
        tuning(2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(FloatingPointError, match="at step 1, got nan"):
        main([*arguments, "--steps", "4", "--fresh"])
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()  # the old run's is gone


def test_default_targets():
    assert default_targets(llama()) == ["q_proj", "v_proj"]
    config = GPT2Config(vocab_size=331, n_embd=12, n_layer=1, n_head=3)
    assert default_targets(GPT2LMHeadModel(config)) == ["c_attn"]
    other = torch.nn.ModuleDict({"query": torch.nn.Linear(2, 2), "out": torch.nn.Linear(2, 2)})
    with pytest.raises(
        ValueError, match=r"expected --targets .*linear layers are called out, query"
    ):
        default_targets(torch.nn.ModuleDict({"block": other, "norm": torch.nn.LayerNorm(2)}))


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.3, 3), (0.9, 10)])
def test_held_out_examples_are_not_trained_on(fraction, count):
    trained, held_out = split(EXAMPLES, fraction=fraction, seed=0)
    assert len(held_out) == count
    assert sorted(trained + held_out) == sorted(EXAMPLES)
    assert split(EXAMPLES, fraction=fraction, seed=0) == (trained, held_out)
    others = [split(EXAMPLES, fraction=fraction, seed=seed)[1] for seed in range(1, 6)]
    assert any(other != held_out for other in others)


def test_gpt2_and_chat_records(inputs, tmp_path):
    config = GPT2Config(
        vocab_size=331, n_positions=64, n_embd=12, n_layer=1, n_head=3, eos_token_id=0
    )
    save(tmp_path / "gpt2", GPT2LMHeadModel(config), chat=CHAT)
    turns = [{"role": "user", "content": "2 + 3 ="}, {"role": "assistant", "content": "5"}]
    data = write_jsonl(tmp_path / "chat.jsonl", [json.dumps({"messages": turns})] * 5)
    options = ["--model", str(tmp_path / "gpt2"), "--data", str(data), "--steps", "2"]
    options += ["--rank", "2", "--batch-size", "3", "--held-out-fraction", "0.3"]
    history = main([*options, "--out", str(tmp_path / "run")])
    assert history["tokens"] == [6, 6]  # "5" and the end of the message, three times
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").exists()


def test_four_bit_base_learns(arguments, tmp_path):
    save(tmp_path / "wide", llama(hidden_size=96, intermediate_size=128))
    of_model = ["--model", str(tmp_path / "wide"), "--four-bit", "--steps", "25"]
    history = main([*arguments, *of_model, "--alpha", "50"])
    assert sum(history["loss"][-5:]) / 5 < sum(history["loss"][:5]) / 5 - 0.3
    dense = main([*arguments, *of_model[:2], "--alpha", "50", "--steps", "25", "--fresh"])
    assert dense["loss"][0] == pytest.approx(history["loss"][0], abs=0.1)
    assert dense["loss"][0] != history["loss"][0]


# What it refuses ------------------------------------------------------------------------------


def test_bad_line_is_named_and_an_earlier_run_left_alone(inputs, arguments, tmp_path):
    bad = write_jsonl(tmp_path / "bad.jsonl", ['{"text": "a"}', '{"txt": "b"}'])
    refused([*arguments, "--data", str(bad)], r"bad.jsonl, line 2: expected .* got \['txt'\]")
    main([*arguments, "--steps", "2"])
    refused([*arguments, "--steps", "2", "--held-out", str(bad)], r"bad.jsonl, line 2: ")
    refused([*arguments, "--data", str(bad), "--fresh"], r"bad.jsonl, line 2: ")


def test_wrong_target_is_named(arguments):
    refused([*arguments, "--targets", "q_proj", "v_porj"], "v_porj(?s:.*)v_proj")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--rank", "5"], r"v_proj: rank must be in \[1, 4\], got 5"),
        (["--batch-size", "30"], r"batch size from 1 .* to 29 \(all of them\), got 30"),
        (["--steps", "3", "--warmup", "3"], "expected --warmup below --steps 3, got 3"),
        (["--max-tokens", "65"], "expected --max-tokens of at most 64, the model's own, got 65"),
        (["--max-tokens", "4"], r"train.jsonl, record 1: expected room .* a prompt of \d tokens"),
        (["--held-out-fraction", "0.99"], "expected more than 29 records, as many .* got 29"),
        (["--device", "gpu"], "expected a device such as cpu or cuda, got 'gpu'"),
        (["--device", "cuda:99"], "expected at least 100 CUDA devices for --device cuda:99, got"),
        (["--dropout", "1.5"], r"dropout.* \[0, 1\), got 1.5"),
    ],
)
def test_setting_is_refused_before_anything_is_written(arguments, options, match):
    refused([*arguments, *options], match)


def test_missing_files_are_named(arguments, tmp_path):
    refused([*arguments, "--data", "none.jsonl"], r"none\.jsonl", error=FileNotFoundError)
    nothing = str(tmp_path / "no_model")
    refused([*arguments, "--model", nothing], "no_model", error=OSError)


def test_tokenizer_of_another_model(arguments, tmp_path):
    save(tmp_path / "small", llama(vocab_size=50))
    refused(
        [*arguments, "--model", str(tmp_path / "small")],
        r"expected tokens below 50, the model's vocabulary, got \d+: the tokenizer",
    )


def test_four_bit_needs_linear_layers(arguments, tmp_path):
    config = GPT2Config(vocab_size=331, n_positions=64, n_embd=12, n_layer=1, n_head=3)
    save(tmp_path / "gpt2", GPT2LMHeadModel(config))
    refused(
        [*arguments, "--model", str(tmp_path / "gpt2"), "--four-bit"],
        "expected layers of type nn.Linear for --four-bit, got none in GPT2LMHeadModel",
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--rank", "0"], "--rank: expected at least 1, got 0"),
        (["--rank", "two"], "--rank: invalid integer value: 'two'"),
        (
            ["--learning-rate", "0"],
            "--learning-rate: expected more than 0 and less than inf, got 0",
        ),
        (["--held-out-fraction", "1"], "more than 0 and less than 1, got 1"),
        (["--held-out-fraction", "0.1", "--held-out", "x"], "not allowed with argument"),
        (["--variant", "adalora"], "invalid choice: 'adalora'"),
    ],
)
def test_command_line_is_checked(arguments, option, message, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, *option])
    assert message in capsys.readouterr().err


def test_help_names_every_option_and_form(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for part in ("--held-out-fraction", "--four-bit", '"messages"', "carries on from its last"):
        assert part in text


@pytest.fixture
def earlier_run(arguments, inputs) -> list[str]:
    unseen = str(inputs / "unseen.jsonl")
    arguments = [*arguments, "--held-out", unseen, "--steps", "4", "--evaluate-every", "3"]
    main(arguments)
    return arguments


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--rank", "2"], r"expected rank=2 in .*checkpoint.safetensors, got rank=3; start again"),
        (["--steps", "5"], "expected steps=5 in .* got steps=4"),
        (
            ["--alpha", "2", "--seed", "1"],
            "expected alpha=2.0, seed=1 in .* got alpha=16.0, seed=0",
        ),
        (["--learning-rate", "1"], "expected learning_rate=1.0 in .* got learning_rate=0.02"),
        (["--targets", "k_proj"], r"expected targets=\['k_proj'\] in .* got targets=None"),
        (["--variant", "rslora"], "expected variant='rslora'"),
        (["--dropout", "0.5"], "expected dropout=0.5"),
        (["--batch-size", "8"], "expected batch_size=8"),
        (["--max-tokens", "60"], "expected max_tokens=60"),
        (["--warmup", "3"], "expected warmup=3 in .* got warmup=0"),
        (["--precision", "bf16"], "expected precision='bf16'"),
        (["--lora-plus-ratio", "2"], "expected lora_plus_ratio=2.0"),
        (["--four-bit"], "expected four_bit=True"),
        (["--model", "smollm2"], "expected model='smollm2'"),
    ],
)
def test_checkpoint_of_other_settings_is_refused(earlier_run, options, match):
    refused([*earlier_run, *options], match)


def test_checkpoint_of_other_data_is_refused(earlier_run, inputs, tmp_path):
    other = write_jsonl(tmp_path / "other.jsonl", ['{"text": "a"}'] * 9)
    refused([*earlier_run, "--data", str(other)], r"expected data='sha256 \w+' in .* got data='sha")
    refused([*earlier_run, "--held-out", str(other)], "expected held_out='sha256")
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((inputs / "train.jsonl").read_bytes())
    main([*earlier_run, "--data", str(moved)])  # the same data under another name


def test_damaged_checkpoint_is_refused(earlier_run, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    refused(earlier_run, "expected a whole checkpoint in .* got a truncated or damaged file")


def test_when_to_save_and_evaluate_may_change(earlier_run):
    main([*earlier_run, "--checkpoint-every", "3", "--evaluate-every", "2"])


def test_what_cannot_be_saved_is_refused_before_it_is_trained(arguments, tmp_path, monkeypatch):
    tied = save(tmp_path / "tied", llama(tie_word_embeddings=True))
    monkeypatch.setattr(FineTuning, "__call__", None)
    options = ["--model", tied, "--variant", "pissa", "--targets", "lm_head", "--steps", "2"]
    refused([*arguments, *options], "tied to")


def test_finished_run_is_not_trained_again(earlier_run, tmp_path, monkeypatch):
    before = files(tmp_path / "run")
    monkeypatch.setattr(FineTuning, "__call__", None)
    assert main(earlier_run)["held_out_step"] == [0, 3, 4]
    assert files(tmp_path / "run") == before


def test_fresh_starts_again(earlier_run, tmp_path):
    other = main([*earlier_run, "--seed", "1", "--fresh"])
    elsewhere = [*earlier_run, "--seed", "1", "--out", str(tmp_path / "elsewhere")]
    assert main(elsewhere) == other
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("run", "elsewhere")]
    assert logs[0] == logs[1]


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


# At full size ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_smollm2_learns_to_describe_a_table(tmp_path, capsys):
    def record(row) -> dict[str, str]:
        table = ", ".join(f"{slot}: {value}" for slot, value in row.table.items())
        return {"prompt": f"{table}\n", "completion": row.text}

    short = sorted(table_to_text("train"), key=lambda row: len(row.text))[:24]
    data = write_jsonl(tmp_path / "tables.jsonl", [json.dumps(record(row)) for row in short])
    options = ["--model", "smollm2", "--data", str(data), "--held-out-fraction", "0.2"]
    options += ["--steps", "4", "--batch-size", "2", "--learning-rate", "1e-3", "--warmup", "0"]
    history = main([*options, "--evaluate-every", "4", "--out", str(tmp_path / "run")])
    first, last = history["held_out_loss"]
    assert 1 < last < first - 0.2 < 6
    assert "460800 parameters in 60 layers are trained, on 19 records" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_run_on_the_gpu_learns_and_continues(precision, arguments, tmp_path):
    options = [*TARGETS, "--device", "cuda", "--precision", precision, "--steps", "40"]
    options += ["--dropout", "0.1"]
    history = main([*arguments, *options])
    assert sum(history["loss"][-5:]) / 5 < sum(history["loss"][:5]) / 5 - 0.5
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}

    class Killed(Exception):
        pass

    def until_30(self, line, write=Log.write):
        if line["step"] == 30:
            raise Killed
        write(self, line)

    parts = [*arguments, *options, "--out", str(tmp_path / "parts")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "write", until_30)
        with pytest.raises(Killed):
            main(parts)
    # A GPU adds some gradients up in no fixed order. Lost dropout or momentum would show at 0.01.
    assert main(parts)["loss"] == pytest.approx(history["loss"], abs=1e-3)


@pytest.mark.gpu
def test_precision_is_bf16_on_a_gpu_and_fp32_on_a_cpu(arguments, tmp_path):
    for device, precision in (("cuda", "bf16"), ("cpu", "fp32")):
        main([*arguments, "--device", device, "--steps", "1", "--fresh"])
        saved = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
        assert saved["state"]["settings"]["precision"] == precision
