"""What the recipe refuses, before it writes anything."""

import os

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from companion.language.fine_tuning import FineTuning
from companion.lora.train import main
from tests.language.tiny_language_model import llama, save, write_jsonl
from tests.lora.recipe import files, refused

# PEFT asks transformers for a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


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
