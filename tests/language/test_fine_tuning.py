"""One step on some parameters, here adapters: against PEFT's layers and a loop written out."""

import itertools

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close

from companion.language.fine_tuning import FineTuning
from companion.language.records import Example, collate
from companion.lora.injection import add_lora, lora_layers, lora_parameters
from companion.lora.peft_files.folder import save_lora
from companion.processes import launch
from companion.training.precision import PrecisionPolicy
from tests.language.ranks_fine_tuning import steps_of_rank
from tests.language.tiny_language_model import llama

# PEFT asks transformers for a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def adapted(*, seed: int = 0) -> torch.nn.Module:
    start = torch.Generator().manual_seed(seed)
    return add_lora(llama(), targets=["q_proj", "o_proj"], rank=3, alpha=5.0, generator=start)


EXAMPLES = [Example([(7 * i + j) % 331 for j in range(4 + i % 5)], i % 3) for i in range(11)]


def test_steps_are_those_of_peft_and_adamw(tmp_path):
    """The same start trained by PEFT's layers, transformers' loss and a loop written out."""
    ours = adapted()
    save_lora(ours, tmp_path)
    tuning = FineTuning(
        ours, lora_parameters(ours), EXAMPLES, steps=6, batch_size=4, learning_rate=0.01, warmup=2
    )
    losses = [tuning(i)["loss"] for i in range(6)]

    theirs = PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True).train()
    trained = [p for p in theirs.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained, weight_decay=0.0)
    for i, share in enumerate([1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]):
        adam.param_groups[0]["lr"] = 0.01 * share
        tokens, labels = collate(tuning.batch(i), pad_token=9)
        loss = theirs(tokens, labels=labels).loss
        assert losses[i] == pytest.approx(loss.item(), abs=1e-5)
        adam.zero_grad()
        loss.backward()
        adam.step()
    ours_saved, theirs_saved = tmp_path / "ours", tmp_path / "theirs"
    save_lora(ours, ours_saved)
    theirs.save_pretrained(theirs_saved)
    got, expected = (
        load_file(folder / "adapter_model.safetensors") for folder in (ours_saved, theirs_saved)
    )
    assert got.keys() == expected.keys()
    for name in expected:
        assert_close(got[name], expected[name], atol=2e-5, rtol=1e-4)


def test_every_epoch_takes_every_example_once():
    def order(seed: int) -> list[int]:
        model = adapted()
        trained = lora_parameters(model)
        settings = {"steps": 33, "batch_size": 3, "learning_rate": 0.01, "seed": seed}
        tuning = FineTuning(model, trained, EXAMPLES, **settings)
        taken = [example for i in range(33) for example in tuning.batch(i)]
        return [EXAMPLES.index(example) for example in taken]

    epochs = [order(0)[start : start + 11] for start in range(0, 99, 11)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 9
    assert order(0) == order(0) != order(1)


def test_dropout_of_a_step_depends_on_seed_and_step_alone():
    """Not on the global generator, which stays as it was."""

    def loss(*, step: int, seed: int = 0, before: int = 0) -> float:
        model = add_lora(llama(), targets=["q_proj"], rank=3, alpha=500.0, dropout=0.5)
        for layer in lora_layers(model).values():
            torch.nn.init.constant_(layer.a_RI, 0.3)
            torch.nn.init.constant_(layer.b_OR, 0.3)
        same = [EXAMPLES[3]] * 4  # so that their order is of no consequence
        trained = lora_parameters(model)
        settings = {"steps": 9, "batch_size": 4, "learning_rate": 1, "seed": seed}
        tuning = FineTuning(model, trained, same, **settings)
        torch.manual_seed(before)
        state = torch.get_rng_state()
        result = tuning(step)["loss"]
        assert torch.equal(torch.get_rng_state(), state)
        return result

    with torch.random.fork_rng():
        assert loss(step=1) == loss(step=1, before=7)
        distinct = {round(loss(step=i, seed=seed), 5) for i in (1, 2) for seed in (0, 1)}
        assert len(distinct) == 4


def test_expert_without_a_token_gets_a_zero_gradient():
    model = adapted()
    unused = llama(seed=5)
    model.unused = add_lora(unused, targets=["model.layers.0.self_attn.q_proj"], rank=2, alpha=1)
    tuning = FineTuning(
        model, lora_parameters(model), EXAMPLES, steps=2, batch_size=4, learning_rate=0.01
    )
    before = [p.detach().clone() for p in unused.parameters()]
    tuning(0)
    for p, was in zip(unused.parameters(), before, strict=True):
        assert torch.equal(p, was)


def test_skipped_steps_are_gone_and_the_learning_rate_goes_on():
    """From 2¹⁰⁰ no step of four is finite; the losses are those before any step, and unscaled."""

    def run(precision: str | PrecisionPolicy) -> list[dict[str, float]]:
        model = adapted()
        before = [p.detach().clone() for p in lora_parameters(model)]
        settings = {"steps": 4, "batch_size": 11, "learning_rate": 0.01, "precision": precision}
        tuning = FineTuning(model, lora_parameters(model), EXAMPLES, **settings)
        measures = [tuning(i) for i in range(4)]
        moved.append(not all(map(torch.equal, before, lora_parameters(model))))
        return measures

    moved: list[bool] = []
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    skipped, expected = run(PrecisionPolicy("fp16", "cpu", scaler=scaler)), run("fp32")
    assert moved == [False, True]
    assert scaler.get_scale() == 2.0**96
    assert [m["learning_rate"] for m in skipped] == [m["learning_rate"] for m in expected]
    assert [m["loss"] for m in skipped] == pytest.approx([expected[0]["loss"]] * 4, abs=0.01)


def test_processes_skip_a_step_together_when_one_overflows():
    first, second = launch(steps_of_rank, 2, [None, 1, 0, None])
    assert (
        [scale for scale, _ in first] == [scale for scale, _ in second] == [64.0, 32.0, 16.0, 16.0]
    )
    weights = [values for _, values in first]
    for ours, theirs in zip(weights, (values for _, values in second), strict=True):
        assert all(map(torch.equal, ours, theirs))
    stayed = [all(map(torch.equal, a, b)) for a, b in itertools.pairwise(weights)]
    assert stayed == [True, True, False]
