"""The full-size recipe at toy size: what it learns."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
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
from tests.lora.recipe import TARGETS

# PEFT asks transformers for a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


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
    "options", [["--dropout", "0.1"], ["--variant", "rslora", "--precision", "fp16"],
                ["--variant", "dora"], ["--variant", "pissa"],
                ["--lora-plus-ratio", "4", "--precision", "bf16"]],
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
    tolerance = 0.02 if "--precision" in options else 1e-5
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
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
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
