"""Adapters on disk: PEFT reads what we write and we read what PEFT writes, to the same outputs."""

import os

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel

from companion.collectives import data_parallel
from companion.data import smollm2
from companion.lora import add_lora, lora_layers, lora_parameters, remove_lora_
from companion.lora.four_bit.quantized import quantize_base_
from companion.lora.merging import merge_lora_, unmerge_lora_
from companion.lora.peft_files.folder import load_lora, save_lora
from tests.language.tiny_language_model import llama
from tests.lora.adapter_files import (
    ATTENTION,
    CONFIG,
    EACH,
    MODELS,
    OF_PEFT,
    SETTINGS,
    WEIGHTS,
    adapted_by_peft,
    change_tensors,
    disturb_,
    everything,
    of_peft,
    opened_in_peft,
    ours,
    outputs,
    seeded,
    silently,
)

# ------------------------------------------------------------------------ PEFT reads what we write


@EACH
def test_peft_opens_what_we_save(name, targets, variant, tmp_path):
    model = ours(name, targets, variant)
    save_lora(model, tmp_path)
    theirs = opened_in_peft(name, tmp_path)
    y = outputs(name, model)
    torch.testing.assert_close(outputs(name, theirs), y, atol=2e-6, rtol=1e-5)
    assert (y - outputs(name, MODELS[name]())).abs().max() > 0.01
    assert adapted_by_peft(theirs) == list(lora_layers(model))


def test_layers_of_different_rank_and_alpha(tmp_path):
    """Also where one name is the end of another: h.1.mlp.c_proj and mlp.c_proj."""
    model = MODELS["gpt2"]()
    add_lora(model, targets=["c_attn"], rank=3, alpha=7.5)
    add_lora(model, targets=["transformer.h.0.mlp.c_proj"], rank=2, alpha=7.5)
    add_lora(model, targets=["transformer.h.1.mlp.c_proj"], rank=5, alpha=1.0)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    theirs = opened_in_peft("gpt2", tmp_path)
    torch.testing.assert_close(outputs("gpt2", theirs), outputs("gpt2", model))
    again = load_lora(MODELS["gpt2"](), tmp_path)
    assert [(x.rank, x.alpha) for x in lora_layers(again).values()] == [
        (3, 7.5),
        (2, 7.5),
        (3, 7.5),
        (5, 1.0),
    ]


@pytest.mark.parametrize("variant", ["lora", "dora", "pissa"])
def test_a_merged_model_is_saved_like_an_unmerged_one(variant, tmp_path):
    model = ours("llama", ATTENTION, variant)
    save_lora(model, tmp_path / "before")
    merge_lora_(model)
    save_lora(model, tmp_path / "merged")
    assert all(layer.is_merged for layer in lora_layers(model).values())
    for file in (CONFIG, WEIGHTS):
        before, merged = (tmp_path / folder / file for folder in ("before", "merged"))
        assert before.read_bytes() == merged.read_bytes()
    unmerge_lora_(model)


# ------------------------------------------------------------------------ we read what PEFT writes


@EACH
def test_we_open_what_peft_saves(name, targets, variant, tmp_path):
    theirs = of_peft(name, tmp_path, target_modules=targets, **OF_PEFT[variant])
    model = load_lora(MODELS[name](), tmp_path)
    y = outputs(name, theirs)
    torch.testing.assert_close(outputs(name, model), y, atol=2e-6, rtol=1e-5)
    assert (y - outputs(name, MODELS[name]())).abs().max() > 0.01
    assert list(lora_layers(model)) == adapted_by_peft(theirs)
    assert {layer.variant for layer in lora_layers(model).values()} == {variant}


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama", r"model\.layers\.1\..*(q|down)_proj"),
        ("llama", "all-linear"),
        ("gpt2", "all-linear"),
        ("mixed", r".*(up|table)"),
    ],
)
def test_targets_that_peft_was_given_as_one_string(name, targets, tmp_path):
    theirs = of_peft(name, tmp_path, target_modules=targets)
    model = load_lora(MODELS[name](), tmp_path)
    torch.testing.assert_close(outputs(name, model), outputs(name, theirs), atol=2e-6, rtol=1e-5)
    assert list(lora_layers(model)) == adapted_by_peft(theirs)


def test_the_longer_name_of_a_magnitude(tmp_path):
    """PEFT's own name for it inside a model ends with .weight, and it reads both."""
    model = ours("llama", ATTENTION, "dora")
    save_lora(model, tmp_path)

    def rename(tensors):
        for name in [name for name in tensors if name.endswith("magnitude_vector")]:
            tensors[f"{name}.weight"] = tensors.pop(name)

    change_tensors(tmp_path, rename)
    assert torch.equal(
        outputs("llama", load_lora(MODELS["llama"](), tmp_path)), outputs("llama", model)
    )


def test_pissa_leaves_embeddings_as_they_are(tmp_path):
    """PEFT's "pissa" adapts an embedding plainly, so such a mixture is one folder."""
    theirs = of_peft(
        "llama", tmp_path, target_modules=["embed_tokens", "v_proj"], init_lora_weights="pissa"
    )
    model = load_lora(MODELS["llama"](), tmp_path)
    torch.testing.assert_close(outputs("llama", model), outputs("llama", theirs))
    save_lora(model, tmp_path / "again")
    again = opened_in_peft("llama", tmp_path / "again")
    torch.testing.assert_close(outputs("llama", model), outputs("llama", again))


def test_pissa_with_the_square_root(tmp_path):
    settings = {"init_lora_weights": "pissa", "use_rslora": True}
    theirs = of_peft("gpt2", tmp_path, target_modules=["c_attn"], **settings)
    model = load_lora(MODELS["gpt2"](), tmp_path)
    torch.testing.assert_close(outputs("gpt2", model), outputs("gpt2", theirs))
    save_lora(model, tmp_path / "again")
    again = opened_in_peft("gpt2", tmp_path / "again")
    torch.testing.assert_close(outputs("gpt2", model), outputs("gpt2", again))


def test_dora_with_the_square_root(tmp_path):
    theirs = of_peft("gpt2", tmp_path, target_modules=["c_fc"], use_dora=True, use_rslora=True)
    model = load_lora(MODELS["gpt2"](), tmp_path)
    torch.testing.assert_close(outputs("gpt2", model), outputs("gpt2", theirs))
    save_lora(model, tmp_path / "again")
    again = opened_in_peft("gpt2", tmp_path / "again")
    torch.testing.assert_close(outputs("gpt2", model), outputs("gpt2", again))


def test_copies_of_base_weights_in_the_file(tmp_path):
    """PEFT adds an adapted embedding's weight. It is checked: it has to be this model's own."""
    of_peft("llama", tmp_path, target_modules=["embed_tokens", "lm_head"])
    copies = [name for name in load_file(tmp_path / WEIGHTS) if "base_layer" in name]
    assert len(copies) == 2
    half = load_lora(MODELS["llama"]().bfloat16(), tmp_path)  # its weights are the file's, rounded
    assert len(lora_layers(half)) == 2
    other = MODELS["llama"]()
    with torch.no_grad():
        other.model.embed_tokens.weight[7, 3] += 0.01
    before = everything(other)
    with pytest.raises(
        ValueError, match=r"embed_tokens\.weight: expected this model's own values in the file"
    ):
        load_lora(other, tmp_path)
    assert everything(other) == before


# --------------------------------------------------------------------------- we read what we write


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_round_trip_keeps_every_bit(name, targets, variant, dtype, tmp_path):
    base = MODELS[name]
    model = add_lora(base().to(dtype), targets=targets, variant=variant, **SETTINGS)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    again = load_lora(base().to(dtype), tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in again.state_dict().items():
        assert tensor.dtype == model.state_dict()[key].dtype
        assert torch.equal(tensor, model.state_dict()[key])
    wide = torch.promote_types(dtype, torch.float32)
    assert {parameter.dtype for parameter in lora_parameters(again)} == {wide}
    assert torch.equal(outputs(name, again), outputs(name, model))


@EACH
def test_what_is_saved_again_is_the_same_file(name, targets, variant, tmp_path):
    save_lora(ours(name, targets, variant, dropout=0.125), tmp_path / "first")
    again = load_lora(MODELS[name](), tmp_path / "first")
    save_lora(again, str(tmp_path / "deep" / "second"))
    for file in (CONFIG, WEIGHTS):
        second = tmp_path / "deep" / "second" / file
        assert (tmp_path / "first" / file).read_bytes() == second.read_bytes()


def test_what_is_loaded_can_be_trained_on(tmp_path):
    save_lora(ours("llama", ATTENTION, dropout=0.5), tmp_path)
    model = MODELS["llama"]()
    assert load_lora(model, tmp_path) is model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.endswith(("a_RI", "b_OR")) for name in trained)
    assert all(not x.training and x.dropout == 0.5 for x in lora_layers(model).values())
    assert torch.equal(outputs("llama", model), outputs("llama", model))
    assert load_lora(MODELS["llama"]().train(), tmp_path).model.layers[0].self_attn.q_proj.training


def test_the_random_state_is_not_touched(tmp_path):
    save_lora(ours("mixed", ["table", "conv", "up"]), tmp_path)
    before = torch.get_rng_state()
    load_lora(MODELS["mixed"](), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_adapters_of_lower_precision(tmp_path):
    model = ours("llama", ATTENTION)
    for layer in lora_layers(model).values():
        layer.a_RI.data = layer.a_RI.data.bfloat16()
    save_lora(model, tmp_path)
    for name, layer in lora_layers(load_lora(MODELS["llama"](), tmp_path)).items():
        assert layer.a_RI.dtype == torch.float32
        assert torch.equal(layer.a_RI, lora_layers(model)[name].a_RI.float())


def test_a_second_adapter_on_other_layers(tmp_path):
    first = ours("llama", ["q_proj"])
    save_lora(ours("llama", ["v_proj"]), tmp_path)
    load_lora(first, tmp_path)
    both = ours("llama", ["q_proj"])
    add_lora(both, targets=["v_proj"], **SETTINGS)
    assert list(lora_layers(first)) == list(lora_layers(both))
    assert all(parameter.requires_grad for parameter in lora_parameters(first))


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # on its own files, too
def test_a_block_that_is_used_twice(tmp_path):
    """It is adapted once, and saved under the first of its names."""

    def twice():
        block = seeded(lambda: nn.Sequential(nn.Linear(5, 5), nn.Tanh()))
        return nn.Sequential(block, block)

    model = add_lora(twice(), targets=["0.0", "1.0"], **SETTINGS)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    x = torch.ones(2, 5)
    theirs = silently(peft.PeftModel.from_pretrained, twice(), tmp_path)
    torch.testing.assert_close(theirs(x), model(x))
    silently(theirs.save_pretrained, tmp_path / "theirs")
    for folder in (tmp_path, tmp_path / "theirs"):
        torch.testing.assert_close(load_lora(twice(), folder)(x), model(x))


def test_compiled_models(tmp_path):
    model = ours("mixed", ["table", "up"])
    save_lora(torch.compile(model, backend="eager"), tmp_path)
    theirs = opened_in_peft("mixed", tmp_path)
    torch.testing.assert_close(outputs("mixed", theirs), outputs("mixed", model))
    inner = MODELS["mixed"]()
    inner.blocks["up"] = torch.compile(inner.blocks["up"], backend="eager")
    again = load_lora(torch.compile(inner, backend="eager"), tmp_path)
    assert torch.equal(outputs("mixed", again), outputs("mixed", model))


@pytest.fixture
def alone():
    """A process group of this process only."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, DistributedDataParallel, data_parallel.DataParallel]
)
def test_wrapped_models(wrap, tmp_path):
    model = ours("llama", ATTENTION)
    save_lora(model, tmp_path / "plain")
    for layer in model.model.layers:
        layer.self_attn = checkpoint_wrapper(layer.self_attn)
    save_lora(torch.compile(wrap(model), backend="eager"), tmp_path / "wrapped")
    for file in (WEIGHTS, CONFIG):
        plain, wrapped = ((tmp_path / f / file).read_bytes() for f in ("plain", "wrapped"))
        assert plain == wrapped
    again = nn.DataParallel(MODELS["llama"]())
    assert load_lora(again, tmp_path / "wrapped") is again
    assert torch.equal(outputs("llama", again.module), outputs("llama", model))


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_on_a_quantised_base(variant, tmp_path):
    def base():
        wide = llama(hidden_size=48, intermediate_size=96)
        return quantize_base_(wide, targets=["q_proj", "up_proj"])

    model = add_lora(base(), targets=["q_proj", "up_proj"], variant=variant, **SETTINGS)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    again = load_lora(base(), tmp_path)
    assert torch.equal(outputs("llama", again), outputs("llama", model))
    dense = load_lora(llama(hidden_size=48, intermediate_size=96), tmp_path)
    assert not torch.equal(outputs("llama", dense), outputs("llama", model))
    torch.testing.assert_close(outputs("llama", dense), outputs("llama", model), atol=0.3, rtol=0.1)


def test_on_another_device(device, tmp_path):
    model = ours("llama", ATTENTION).to(device)
    save_lora(model, tmp_path)
    again = load_lora(MODELS["llama"]().to(device), tmp_path)
    for mine, other in zip(lora_parameters(again), lora_parameters(model), strict=True):
        assert mine.device.type == device
        assert torch.equal(mine, other)


@pytest.mark.slow
def test_a_real_language_model(tmp_path):
    """SmolLM2 both ways: 60 layers, tied embeddings, grouped queries."""
    prompt = torch.tensor([[504, 3575, 282, 4649, 314]])
    model, _ = smollm2()
    before = outputs_of(model, prompt)
    add_lora(model, targets=ATTENTION, rank=8, alpha=16.0)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path / "ours")
    y = outputs_of(model, prompt)
    assert (y - before).abs().max() > 1
    theirs = silently(peft.PeftModel.from_pretrained, remove_lora_(model), tmp_path / "ours")
    torch.testing.assert_close(outputs_of(theirs, prompt), y, atol=1e-3, rtol=1e-3)
    silently(theirs.save_pretrained, tmp_path / "theirs")
    model = load_lora(theirs.unload(), tmp_path / "theirs")
    assert len(lora_layers(model)) == 60
    assert torch.equal(outputs_of(model, prompt), y)


@torch.no_grad()
def outputs_of(model: nn.Module, prompt: torch.Tensor) -> torch.Tensor:
    return model(prompt).logits


# --------------------------------------------------------------------------------- files are whole


def test_the_old_files_stay_while_the_new_ones_are_written(tmp_path, monkeypatch):
    first, second = ours("mixed", ["up"]), ours("mixed", ["up", "down"], alpha=1.0)
    save_lora(first, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_lora(second, tmp_path)
    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert torch.equal(
        outputs("mixed", load_lora(MODELS["mixed"](), tmp_path)), outputs("mixed", first)
    )
    save_lora(second, tmp_path)
    assert torch.equal(
        outputs("mixed", load_lora(MODELS["mixed"](), tmp_path)), outputs("mixed", second)
    )
    assert {file.name for file in tmp_path.iterdir()} == {CONFIG, WEIGHTS}


def test_files_are_on_the_disk_before_they_are_renamed_and_the_config_is_last(
    tmp_path, monkeypatch
):
    order = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda fd: order.append("flush") or flush(fd))
    monkeypatch.setattr("os.replace", lambda a, b: order.append(b.name) or rename(a, b))
    save_lora(ours("mixed", ["up"]), tmp_path)
    folder = ["flush"] if os.name == "posix" else []
    assert order == ["flush", WEIGHTS, *folder, "flush", CONFIG, *folder]


def test_a_model_without_adapters_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="that holds LoRA layers, got none in Mixed"):
        save_lora(MODELS["mixed"](), tmp_path / "new")
    with pytest.raises(ValueError, match="that holds LoRA layers, got one itself"):
        save_lora(ours("mixed", ["up"]).blocks["up"], tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_a_run_that_diverged_does_not_replace_a_good_adapter(value, tmp_path):
    model = ours("mixed", ["up", "down"])
    save_lora(model, tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    model.blocks["down"].b_OR.data[4, 2] = value
    with pytest.raises(
        ValueError,
        match=r"model\.blocks\.down\.lora_B\.weight: expected finite numbers, got NaN or inf",
    ):
        save_lora(model, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before
