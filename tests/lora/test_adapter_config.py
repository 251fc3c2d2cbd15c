"""The settings in adapter_config.json: what PEFT makes of ours, and we of PEFT's."""

import json

import peft
import pytest
import torch
from torch import nn

from companion.lora import add_lora, lora_layers, lora_parameters
from companion.lora.linear import LoRALinear
from companion.lora.peft_files.folder import load_lora, save_lora
from tests.lora.adapter_files import (
    ATTENTION,
    CONFIG,
    MODELS,
    SETTINGS,
    adapted_by_peft,
    change_config,
    disturb_,
    of_peft,
    opened_in_peft,
    ours,
    outputs,
    refuse,
    seeded,
    silently,
)


class Nested(nn.Module):
    """Names of which one is the end of another, and one that means something else in re."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(5, 5)
        self.a = nn.ModuleDict(
            {"up": nn.Linear(5, 5), "b+": nn.ModuleDict({"up": nn.Linear(5, 5)})}
        )
        self.norm = nn.ModuleDict({"up": nn.LayerNorm(5)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm["up"](self.a["b+"]["up"](self.a["up"](self.up(x))))


@pytest.mark.parametrize(
    ("names", "spelling"),
    [
        (["a.b+.up"], list),
        (["a.up"], list),
        (["up"], str),
        (["up", "a.b+.up"], str),
        (["up", "a.up", "a.b+.up"], str),
    ],
)
def test_peft_adapts_the_same_modules_and_no_others(names, spelling, tmp_path):
    model = seeded(Nested)
    for name in names:
        parent, _, last = name.rpartition(".")
        layer = LoRALinear(model.get_submodule(name), rank=len(name) % 3 + 1, alpha=len(name))
        setattr(model.get_submodule(parent), last, layer)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    assert type(json.loads((tmp_path / CONFIG).read_text())["target_modules"]) is spelling
    theirs = silently(peft.PeftModel.from_pretrained, seeded(Nested), tmp_path)
    assert adapted_by_peft(theirs) == names
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(theirs(x), model(x))
    torch.testing.assert_close(load_lora(seeded(Nested), tmp_path)(x), model(x))


def test_a_common_last_name_is_enough(tmp_path):
    save_lora(ours("llama", ["model.layers.0.self_attn.q_proj"]), tmp_path / "one")
    one = json.loads((tmp_path / "one" / CONFIG).read_text())
    assert one["target_modules"] == ["model.layers.0.self_attn.q_proj"]
    save_lora(ours("llama", ATTENTION), tmp_path / "all")
    assert json.loads((tmp_path / "all" / CONFIG).read_text())["target_modules"] == ATTENTION


def test_a_layer_that_is_called_as_a_part_of_ours_is(tmp_path):
    model = nn.ModuleDict(
        {"base": nn.Linear(5, 3), "drop": nn.ModuleDict({"base": nn.Linear(3, 2)})}
    )
    save_lora(add_lora(model, targets=["base"], rank=2, alpha=4.0), tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["target_modules"] == ["base"]


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match")
def test_a_name_that_is_no_expression_for_itself(tmp_path):
    """PEFT looks a layer's name up in a pattern as it stands, too: b+ matches b, but not b+."""
    model = add_lora(seeded(Nested), targets=["b+.up"], rank=2, alpha=4.0)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    change_config(tmp_path, r=5, rank_pattern={"a.b+.up": 2})
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(5))
    theirs = silently(peft.PeftModel.from_pretrained, seeded(Nested), tmp_path)
    torch.testing.assert_close(theirs(x), model(x))
    torch.testing.assert_close(load_lora(seeded(Nested), tmp_path)(x), model(x))


def test_the_settings_that_are_written(tmp_path):
    model = ours("llama", ["q_proj", "lm_head"], rank=4, alpha=16.0, dropout=0.25)
    model.config.name_or_path = "somebody/tiny"
    save_lora(model, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text()) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "somebody/tiny",
        "inference_mode": True,
        "target_modules": ["lm_head", "q_proj"],
        "r": 4,
        "rank_pattern": {},
        "lora_alpha": 16,
        "alpha_pattern": {},
        "lora_dropout": 0.25,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "fan_in_fan_out": False,
        "bias": "none",
        "modules_to_save": None,
    }
    assert '"lora_alpha": 16,' in (tmp_path / CONFIG).read_text()  # 16.0 is no integer to others
    assert json.loads((tmp_path / CONFIG).read_text()).keys() <= peft.LoraConfig().to_dict().keys()


@pytest.mark.parametrize(
    ("name", "targets", "variant", "expected"),
    [
        ("gpt2", ["c_fc"], "pissa", {"fan_in_fan_out": True, "init_lora_weights": "pissa"}),
        ("gpt2", ["c_fc"], "rslora", {"use_rslora": True, "task_type": None}),
        ("llama", ["up_proj"], "lora", {"use_rslora": False, "base_model_name_or_path": None}),
        ("mixed", ["up"], "dora", {"use_dora": True, "base_model_name_or_path": None}),
    ],
)
def test_the_settings_of_variants(name, targets, variant, expected, tmp_path):
    save_lora(ours(name, targets, variant), tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text()).items() >= expected.items()


def test_a_model_of_ones_own_that_is_called_causal_lm(tmp_path):
    """PEFT's wrapper for CAUSAL_LM calls methods that only models of transformers have."""

    class TinyForCausalLM(nn.Sequential):
        pass

    def tiny():
        return seeded(lambda: TinyForCausalLM(nn.Linear(5, 3)))

    model = add_lora(tiny(), targets=["0"], **SETTINGS)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    x = torch.ones(1, 5)
    theirs = silently(peft.PeftModel.from_pretrained, tiny(), tmp_path)
    torch.testing.assert_close(theirs(x), model(x))


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match")
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"init_lora_weights": "pissa"}])
def test_patterns_of_peft(settings, tmp_path):
    """The first in the file that fits the end of a name, after a dot or at the start, counts.

    PEFT sorts the expressions as it writes them, so the file may say another thing than the model
    that it was made from. The oracle is what PEFT reads.
    """
    of_peft(
        "llama",
        tmp_path,
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={
            r"layers\.0\..*_proj": 4,
            "q_proj": 2,
            "proj": 1,
            "^down_proj": 1,
            "model": 1,
        },
        alpha_pattern={"^model.layers.1.mlp.down_proj": 11, "v_proj": 0.5, r".*\.0\..*": 3},
        **settings,
    )
    model, theirs = load_lora(MODELS["llama"](), tmp_path), opened_in_peft("llama", tmp_path)
    torch.testing.assert_close(outputs("llama", model), outputs("llama", theirs))
    got = {name.removeprefix("model.layers."): x for name, x in lora_layers(model).items()}
    assert {name: (layer.rank, layer.alpha) for name, layer in got.items()} == {
        "0.self_attn.q_proj": (4, 3),
        "0.self_attn.v_proj": (4, 3),
        "0.mlp.down_proj": (4, 3),
        "1.self_attn.q_proj": (2, 7),
        "1.self_attn.v_proj": (3, 0.5),
        "1.mlp.down_proj": (3, 11),
    }


@pytest.mark.parametrize("start", [False, "gaussian", "orthogonal"])
def test_starts_that_leave_the_base_alone(start, tmp_path):
    settings = {"r": 4, "target_modules": ATTENTION, "init_lora_weights": start}
    theirs = of_peft("llama", tmp_path, **settings)
    model = load_lora(MODELS["llama"](), tmp_path)
    torch.testing.assert_close(outputs("llama", model), outputs("llama", theirs))


def test_settings_of_an_old_peft(tmp_path):
    """Version 0.2 knew neither patterns nor variants, and wrote settings that are gone."""
    theirs = of_peft("llama", tmp_path, target_modules=ATTENTION)
    old = {"peft_type": "LORA", "r": 3, "lora_alpha": 7, "lora_dropout": 0.0, "bias": "none"}
    old |= {"enable_lora": None, "merge_weights": False, "task_type": "CAUSAL_LM"}
    (tmp_path / CONFIG).write_text(json.dumps(old))
    model = load_lora(MODELS["llama"](), tmp_path)
    torch.testing.assert_close(outputs("llama", model), outputs("llama", theirs))


def test_settings_of_a_later_peft_that_are_off(tmp_path):
    save_lora(ours("llama", ATTENTION), tmp_path)
    off = {"new_a": None, "new_b": False, "new_c": [], "new_d": {}, "new_e": 0, "new_f": ""}
    change_config(tmp_path, **off, rank_pattern=None, alpha_pattern=None, init_lora_weights=None)
    assert load_lora(MODELS["llama"](), tmp_path)


def test_eva_is_a_start_that_leaves_the_base_alone(tmp_path):
    model = ours("llama", ATTENTION)
    save_lora(model, tmp_path)
    change_config(tmp_path, init_lora_weights="eva", eva_config={"rho": 2.0})
    assert torch.equal(
        outputs("llama", load_lora(MODELS["llama"](), tmp_path)), outputs("llama", model)
    )


# Settings of PEFT with which it computes something that we do not.
REFUSED = {
    "bias": {"bias": "all"},
    "lora_bias": {"lora_bias": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "layer_replication": {"layer_replication": [(0, 2), (1, 2)]},
    "use_qalora": {"use_qalora": True},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5, 7], "task_type": "CAUSAL_LM"},
    "arrow_config": {"arrow_config": peft.tuners.lora.ArrowConfig()},
    "trainable_token_indices": {"trainable_token_indices": [0, 1]},
    "target_parameters": {"target_parameters": ["mlp.experts"]},
    "use_bdlora": {"use_bdlora": peft.tuners.lora.BdLoraConfig(target_modules_bd_a=["q_proj"])},
    "velora_config": {"velora_config": peft.tuners.lora.VeloraConfig()},
    "kasa_config": {"kasa_config": peft.tuners.lora.KasaConfig()},
    "monteclora_config": {"monteclora_config": peft.tuners.lora.MontecloraConfig()},
    "megatron_config": {"megatron_config": {"width": 1}},
    "ensure_weight_tying": {"ensure_weight_tying": True},
}
STARTS = ["pissa_niter_4", "olora", "corda", "mica", "lora_ga", "loftq"]


@pytest.mark.parametrize("key", REFUSED)
def test_settings_that_change_the_result(key, tmp_path):
    save_lora(ours("llama", ATTENTION), tmp_path)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=ATTENTION, **REFUSED[key])
    config.save_pretrained(tmp_path)
    refuse(MODELS["llama"](), tmp_path, rf"^{key}: expected .*, got .*; in .*adapter_config\.json$")
    change_config(tmp_path, **{key: peft.LoraConfig().to_dict()[key]})
    assert load_lora(MODELS["llama"](), tmp_path)


@pytest.mark.parametrize("start", STARTS)
def test_starts_that_change_the_base(start, tmp_path):
    save_lora(ours("llama", ATTENTION), tmp_path)
    change_config(tmp_path, init_lora_weights=start)
    refuse(MODELS["llama"](), tmp_path, f"init_lora_weights: expected 'pissa', .*, got '{start}'")


def test_every_setting_of_peft_is_known_or_refused(tmp_path):
    """A truthy value under any other name, of this PEFT or a later one, is not passed over."""
    save_lora(ours("llama", ATTENTION), tmp_path)
    for value in (True, 1, 0.5, "yes", ["a"], {"a": 1}):
        change_config(tmp_path, brand_new=value)
        refuse(MODELS["llama"](), tmp_path, "brand_new: expected null, since no layer here has it")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type: expected 'LORA', got 'IA3'"),
        ({"peft_type": ...}, "peft_type: expected 'LORA', got None"),
        ({"r": ...}, "expected the settings r and lora_alpha, got none called 'r'"),
        (
            {"lora_alpha": ...},
            "expected the settings r and lora_alpha, got none called 'lora_alpha'",
        ),
        ({"r": "3"}, "r: expected an integer, got '3'"),
        ({"r": 3.0}, r"r: expected an integer, got 3\.0"),
        ({"r": True}, "r: expected an integer, got True"),
        ({"r": 0}, r"model\.layers\.0\.self_attn\.q_proj: rank must be in \[1, 12\], got 0"),
        ({"lora_alpha": None}, "lora_alpha: expected a number, got None"),
        ({"lora_alpha": 0}, r"q_proj: alpha: expected a finite number > 0, got 0"),
        ({"lora_alpha": float("nan")}, r"q_proj: alpha: expected a finite number > 0, got nan"),
        ({"alpha_pattern": {"v_proj": -1}}, r"v_proj: alpha: expected a finite number > 0, got -1"),
        ({"lora_dropout": "0.1"}, r"lora_dropout: expected a number, got '0\.1'"),
        ({"lora_dropout": 1.0}, r"q_proj: dropout: expected a probability in \[0, 1\), got 1\.0"),
        ({"use_rslora": 1}, "use_rslora: expected true or false, got 1"),
        ({"use_dora": None}, "use_dora: expected true or false, got None"),
        (
            {"rank_pattern": ["q_proj"]},
            r"rank_pattern: expected names and values, got \['q_proj'\]",
        ),
        ({"rank_pattern": {"q": "3"}}, r"rank_pattern\['q'\]: expected an integer, got '3'"),
        ({"alpha_pattern": {"q": None}}, r"alpha_pattern\['q'\]: expected a number, got None"),
        ({"alpha_pattern": {"q(": 3}}, r"alpha_pattern: expected regular expressions, got 'q\('"),
        (
            {"rank_pattern": {r"(.|..)+(.|..)+(.|..)+\d": 3}},
            "in 1 s, got .* takes longer",
        ),
        (
            {"use_dora": True, "init_lora_weights": "pissa"},
            "use_dora: expected false with init_lora_weights 'pissa', got true",
        ),
        ({"init_lora_weights": ["pissa"]}, r"init_lora_weights: expected .*, got \['pissa'\]"),
        ({"use_dora": True}, r"q_proj: expected .*, lora_magnitude_vector in the file, got"),
    ],
)
def test_settings_that_make_no_sense(changes, match, tmp_path):
    save_lora(ours("llama", ATTENTION), tmp_path)
    change_config(tmp_path, **changes)
    refuse(MODELS["llama"](), tmp_path, match)


def test_a_magnitude_without_dora(tmp_path):
    save_lora(ours("llama", ATTENTION, "dora"), tmp_path)
    change_config(tmp_path, use_dora=False)
    refuse(
        MODELS["llama"](), tmp_path, r"expected lora_A\.weight, lora_B\.weight in the file, got .*v"
    )


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"r": 3,', "expected JSON in .*, got something else"),
        (b"", "expected JSON in .*, got something else"),
        (b'{"r": "\xff"}', "expected JSON in .*, got something else"),
        (b"[1, 2]", "expected a JSON object in .*, got list"),
    ],
)
def test_a_file_that_is_no_json(content, match, tmp_path):
    save_lora(ours("llama", ATTENTION), tmp_path)
    (tmp_path / CONFIG).write_bytes(content)
    refuse(MODELS["llama"](), tmp_path, match)


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ({}, {"variant": "rslora"}, "scaling: .* 'alpha/r' in .*q_proj' and 'alpha/sqrt"),
        (
            {},
            {"variant": "dora"},
            "use of DoRA: expected the same in all layers.* got False in .*q_proj",
        ),
        (
            {},
            {"variant": "pissa"},
            "init: expected the same in all layers.* got 'lora' in .*q_proj",
        ),
        ({}, {"dropout": 0.1}, r"dropout: .* got 0\.0 in .*q_proj' and 0\.1 in .*v_proj"),
    ],
)
def test_mixtures_that_one_folder_cannot_hold(first, second, match, tmp_path):
    model = add_lora(MODELS["llama"](), targets=["q_proj"], **SETTINGS | first)
    add_lora(model, targets=["v_proj"], **SETTINGS | second)
    with pytest.raises(ValueError, match=match):
        save_lora(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_embedding_is_no_dora_layer(tmp_path):
    """PEFT would give it a magnitude, which ours has not."""
    model = add_lora(MODELS["llama"](), targets=["q_proj"], variant="dora", **SETTINGS)
    add_lora(model, targets=["embed_tokens"], **SETTINGS)
    with pytest.raises(ValueError, match="use of DoRA: expected the same in all layers"):
        save_lora(model, tmp_path)
