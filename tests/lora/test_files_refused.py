"""Folders that cannot be loaded: each is named, and leaves the model as it was, bit for bit."""

import pytest
import torch

from companion.lora import lora_layers
from companion.lora.four_bit.quantized import quantize_base_
from companion.lora.peft_files.folder import load_lora, save_lora
from tests.language.tiny_language_model import llama
from tests.lora.adapter_files import (
    ATTENTION,
    CONFIG,
    MODELS,
    WEIGHTS,
    change_config,
    change_tensors,
    of_peft,
    ours,
    refuse,
    silently,
)


def test_a_missing_folder_and_missing_files(tmp_path):
    model = MODELS["mixed"]()
    refuse(model, tmp_path / "none", "expected a folder with .* got .*none", FileNotFoundError)
    save_lora(ours("mixed", ["up"]), tmp_path)
    refuse(model, tmp_path / CONFIG, "expected a folder with", FileNotFoundError)
    for name in (CONFIG, WEIGHTS):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        refuse(model, tmp_path, f"got no {name}", FileNotFoundError)
        (tmp_path / name).write_bytes(content)


def test_a_pickle_is_not_opened(tmp_path):
    theirs = of_peft("mixed", tmp_path, target_modules=["up"])
    (tmp_path / WEIGHTS).unlink()
    silently(theirs.save_pretrained, tmp_path, safe_serialization=False)
    refuse(
        MODELS["mixed"](), tmp_path, r"got adapter_model\.bin, a pickle.*convert it to safetensors"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content + b"\0",
    ],
)
def test_a_damaged_weights_file(damage, tmp_path):
    save_lora(ours("mixed", ["up"]), tmp_path)
    (tmp_path / WEIGHTS).write_bytes(damage((tmp_path / WEIGHTS).read_bytes()))
    refuse(MODELS["mixed"](), tmp_path, "expected a whole safetensors file, got a truncated or")


@pytest.mark.parametrize(
    ("name", "targets", "variant", "change", "match"),
    [
        (
            "llama",
            ATTENTION,
            "lora",
            lambda t: t.pop("base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"),
            r"model\.layers\.1\.self_attn\.v_proj: expected lora_A\.weight, lora_B\.weight in the "
            r"file, got lora_A\.weight$",
        ),
        (
            "mixed",
            ["up"],
            "dora",
            lambda t: t.pop("base_model.model.blocks.up.lora_magnitude_vector"),
            r"blocks\.up: expected .*lora_magnitude_vector in the file, got lora_A\.weight, lora_B",
        ),
        (
            "mixed",
            ["table"],
            "lora",
            lambda t: t.update({"base_model.model.table.lora_magnitude_vector": torch.ones(6)}),
            r"table: expected lora_embedding_A, lora_embedding_B in the file, got .*magnitude",
        ),
        (
            "mixed",
            ["up", "down"],
            "pissa",  # the first layer's base has been changed when the second one is found wrong
            lambda t: t.update({"base_model.model.blocks.down.lora_B.weight": torch.ones(4, 3)}),
            r"blocks\.down: lora_B\.weight: expected shape \(5, 3\) for rank 3 and Linear, got "
            r"\(4, 3\)",
        ),
        (
            "gpt2",
            ["c_attn"],
            "lora",
            lambda t: t.update(
                {"base_model.model.transformer.h.1.attn.c_attn.lora_A.weight": torch.ones(3, 36)}
            ),
            r"attn\.c_attn: lora_A\.weight: expected shape \(3, 12\) .* Conv1D, got \(3, 36\)",
        ),
        (
            "mixed",
            ["up"],
            "lora",
            lambda t: t.update({"base_model.model.blocks.up.lora_B.bias": torch.ones(8)}),
            r"expected tensors of LoRA, got one called blocks\.up\.lora_B\.bias",
        ),
        (
            "mixed",
            ["up"],
            "lora",
            lambda t: t.update({"blocks.up.lora_C.weight": torch.ones(8)}),
            r"expected names that begin with base_model\.model\., got blocks\.up\.lora_C",
        ),
        ("mixed", ["up"], "lora", lambda t: t.clear(), "expected tensors of LoRA in .*, got none"),
        (
            "mixed",
            ["up"],
            "lora",
            lambda t: t["base_model.model.blocks.up.lora_A.weight"][2, 1].fill_(torch.nan),
            r"model\.blocks\.up\.lora_A\.weight: expected finite numbers, got NaN or infinity",
        ),
        (
            "mixed",
            ["up"],
            "lora",
            lambda t: t["base_model.model.blocks.up.lora_B.weight"][0, 0].fill_(torch.inf),
            r"model\.blocks\.up\.lora_B\.weight: expected finite numbers, got NaN or infinity",
        ),
        (
            "mixed",
            ["up"],
            "lora",
            lambda t: t.update(
                {"base_model.model.blocks.up.lora_A.weight": torch.ones(3, 10).int()}
            ),
            r"lora_A\.weight: expected floating-point numbers, got torch\.int32",
        ),
        (
            "mixed",
            ["up"],
            "lora",
            lambda t: t.update({"base_model.model.blocks.up.bias": torch.ones(8)}),
            r"blocks\.up\.bias: expected this model's own values in the file, got others",
        ),
    ],
)
def test_tensors_that_do_not_fit(name, targets, variant, change, match, tmp_path):
    save_lora(ours(name, targets, variant), tmp_path)
    change_tensors(tmp_path, change)
    refuse(MODELS[name](), tmp_path, match)


def test_an_adapter_of_another_model(tmp_path):
    save_lora(ours("llama", ["q_proj"]), tmp_path)
    refuse(
        gpt2 := MODELS["gpt2"](),
        tmp_path,
        r"got one with a module model\.layers\.0\.self_attn\.q_proj, which it lacks; near: ",
    )
    assert not lora_layers(gpt2)
    refuse(
        llama(num_hidden_layers=1),
        tmp_path,
        r"model\.layers\.1\.self_attn\.q_proj, which it lacks; "
        r"near: model\.layers\.0\.self_attn\.q_proj",
    )
    refuse(
        llama(hidden_size=18),
        tmp_path,
        r"layers\.0\.self_attn\.q_proj: lora_A\.weight: expected shape \(3, 18\) .* got \(3, 12\)",
    )


def test_ranks_that_are_not_the_files(tmp_path):
    save_lora(ours("llama", ATTENTION), tmp_path)
    change_config(tmp_path, r=2)
    refuse(
        MODELS["llama"](),
        tmp_path,
        r"q_proj: lora_A\.weight: expected shape \(2, 12\) for rank 2 .* got \(3, 12\)",
    )
    change_config(tmp_path, r=3, rank_pattern={"v_proj": 4})
    refuse(MODELS["llama"](), tmp_path, r"0\.self_attn\.v_proj: .* for rank 4 .* got \(3, 12\)")
    change_config(tmp_path, rank_pattern={"v_proj": 5})
    refuse(MODELS["llama"](), tmp_path, r"v_proj: rank must be in \[1, 4\], got 5")


def test_a_second_adapter_on_the_same_layers(tmp_path):
    save_lora(ours("llama", ATTENTION), tmp_path)
    model = load_lora(MODELS["llama"](), tmp_path)
    refuse(
        model, tmp_path, r"self_attn\.q_proj: expected a layer without LoRA, got one that has it"
    )

    def inside(tensors):
        for name in list(tensors):
            tensors[name.replace("_proj", "_proj.base")] = tensors.pop(name)

    change_tensors(tmp_path, inside)
    refuse(model, tmp_path, r"q_proj\.base, which it lacks")


def test_layers_that_we_cannot_adapt(tmp_path):
    def norms(tensors):
        for name in list(tensors):
            tensors[name.replace("self_attn.q_proj", "input_layernorm")] = tensors.pop(name)

    save_lora(ours("llama", ["q_proj"]), tmp_path)
    change_tensors(tmp_path, norms)
    refuse(
        MODELS["llama"](), tmp_path, r"input_layernorm: .*expected nn\.Linear.* got LlamaRMSNorm"
    )


def test_pissa_of_a_base_that_cannot_be_split(tmp_path):
    save_lora(ours("llama", ["q_proj", "up_proj"], "pissa"), tmp_path)
    broken = MODELS["llama"]()
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan
    refuse(broken, tmp_path, r"1\.mlp\.up_proj: base: expected a finite weight")
    quantised = quantize_base_(MODELS["llama"](), targets=["up_proj"])
    refuse(quantised, tmp_path, r"0\.mlp\.up_proj: base: expected a dense weight, got a 4-bit one")
    save_lora(ours("mixed", ["conv"]), tmp_path)
    change_config(tmp_path, init_lora_weights="pissa")
    refuse(MODELS["mixed"](), tmp_path, r"conv: layer: expected LoRALinear, got LoRAConv2d")


def test_nothing_is_frozen_by_a_refused_call(tmp_path):
    """``everything`` sees the flags; here they differ, and only some of them are set."""
    save_lora(ours("llama", ["q_proj", "up_proj"], "pissa"), tmp_path)
    change_tensors(tmp_path, lambda t: t.popitem())
    model = MODELS["llama"]()
    model.model.layers[0].requires_grad_(False)
    model.model.layers[0].self_attn.q_proj.requires_grad_(True)
    refuse(model, tmp_path, "expected lora_A")
