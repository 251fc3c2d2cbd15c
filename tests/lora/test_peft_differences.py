"""Where PEFT computes something else from the same numbers, nothing is saved or loaded.

Each test first shows the difference within PEFT: if a later version loses it, the refusal can go.
"""

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from companion.lora import add_lora, lora_layers, lora_parameters
from companion.lora.merging import merge_lora_
from companion.lora.peft_files.folder import load_lora, save_lora
from tests.lora.adapter_files import (
    MODELS,
    SETTINGS,
    WEIGHTS,
    adapted_by_peft,
    disturb_,
    of_peft,
    opened_in_peft,
    outputs,
    refuse,
    seeded,
    silently,
)


def adapted(base: nn.Module, targets: list[str], **settings) -> nn.Module:
    """PEFT's model, disturbed."""
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, **settings)
    model = silently(peft.get_peft_model, base, config).eval()
    disturb_(p for key, p in model.named_parameters() if ".lora_" in key)
    return model


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"padding": 1, "padding_mode": "circular"}, "got padding_mode='circular' and"),
        ({"stride": 4, "dilation": 2}, r"got padding_mode='zeros' and dilation=\(2, 2\)"),
        ({"stride": 4, "dilation": (1, 2)}, r"got padding_mode='zeros' and dilation=\(1, 2\)"),
    ],
)
def test_convolutions_whose_padding_or_dilation_peft_forgets(settings, match, tmp_path):
    def base():
        return seeded(lambda: nn.Sequential(nn.Conv2d(5, 7, 3, **settings)))

    theirs = adapted(base(), ["0"])
    x = torch.randn(2, 5, 5, 5, generator=torch.Generator().manual_seed(6))
    y = theirs(x)
    silently(theirs.save_pretrained, tmp_path)
    # Merged, the same update has the base's padding and dilation.
    assert (theirs.merge_and_unload()(x) - y).abs().max() > 0.1
    refuse(base(), tmp_path, rf"^0: expected a convolution padded with zeros and not .* {match}")
    model = add_lora(base(), targets=["0"], **SETTINGS)
    with pytest.raises(ValueError, match=match):
        save_lora(model, tmp_path / "new")


def test_a_dilated_convolution_of_one_pixel_is_an_ordinary_one(tmp_path):
    def base():
        return seeded(lambda: nn.Sequential(nn.Conv2d(5, 7, (1, 3), dilation=(2, 1))))

    model = add_lora(base(), targets=["0"], **SETTINGS)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    x = torch.ones(1, 5, 4, 4)
    theirs = silently(peft.PeftModel.from_pretrained, base(), tmp_path)
    torch.testing.assert_close(theirs(x), model(x))


def test_grouped_convolutions_are_the_same(tmp_path):
    def base():
        return seeded(lambda: nn.Sequential(nn.Conv2d(6, 9, 2, groups=3)))

    model = add_lora(base(), targets=["0"], **SETTINGS)
    disturb_(lora_parameters(model))
    save_lora(model, tmp_path)
    x = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(7))
    with pytest.warns(UserWarning, match="groups > 1"):
        theirs = peft.PeftModel.from_pretrained(base(), tmp_path)
    torch.testing.assert_close(theirs(x), model(x))
    torch.testing.assert_close(load_lora(base(), tmp_path)(x), model(x))


def test_pissa_on_a_tied_output_layer(tmp_path):
    config = peft.LoraConfig(r=3, target_modules=["lm_head"], init_lora_weights="pissa")
    theirs = silently(peft.get_peft_model, MODELS["tied llama"](), config)
    base = outputs("llama", MODELS["tied llama"]())
    assert (outputs("llama", theirs) - base).abs().max() > 0.01  # untrained: it should be the base
    settings = {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": "pissa"}
    of_peft("tied llama", tmp_path, **settings)
    refuse(
        MODELS["tied llama"](),
        tmp_path,
        r"^lm_head: expected a weight of its own for PiSSA.* got one tied to model\.embed_tokens$",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("merged", [False, True])
def test_pissa_on_an_output_layer_that_was_tied(dtype, merged, tmp_path):
    targets = ["q_proj", "lm_head"]
    model = add_lora(MODELS["tied llama"]().to(dtype), targets=targets, variant="pissa", **SETTINGS)
    disturb_(lora_parameters(model))
    if merged:
        merge_lora_(model, keep_base=False)
    with pytest.raises(
        ValueError, match=r"^lm_head: expected a weight of .* got one tied to model\.embed_tokens$"
    ):
        save_lora(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pissa_on_an_output_layer_of_its_own(dtype, tmp_path):
    """PEFT writes the residual into the file; here it is checked against ours."""
    settings = {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": "pissa"}
    theirs = of_peft("llama", tmp_path, **settings)
    assert "base_model.model.lm_head.base_layer.weight" in load_file(tmp_path / WEIGHTS)
    model = load_lora(MODELS["llama"](), tmp_path)
    torch.testing.assert_close(outputs("llama", model), outputs("llama", theirs))
    load_lora(MODELS["llama"]().to(dtype), tmp_path)
    save_lora(model, tmp_path / "again")
    again = opened_in_peft("llama", tmp_path / "again")
    torch.testing.assert_close(outputs("llama", model), outputs("llama", again))
    other = MODELS["llama"]()
    with torch.no_grad():
        other.lm_head.weight += 0.1 * other.lm_head.weight.flip(0)
    refuse(other, tmp_path, r"^lm_head\.weight: expected this model's own values in the file")


def test_one_layer_in_two_places(tmp_path):
    def base():
        layer = seeded(lambda: nn.Linear(5, 5))
        return nn.Sequential(layer, nn.Tanh(), layer)

    theirs = adapted(base(), ["0", "2"])
    assert adapted_by_peft(theirs) == ["0"]
    model = add_lora(base(), targets=["0", "2"], **SETTINGS)
    with pytest.raises(ValueError, match=r"^0: expected a layer in one place.* got it in 0 and 2$"):
        save_lora(model, tmp_path)
    # PEFT's own file is read as PEFT reads it: the second place keeps the plain layer.
    silently(theirs.save_pretrained, tmp_path)
    again = load_lora(base(), tmp_path)
    assert list(lora_layers(again)) == ["0"]
    x = torch.ones(1, 5)
    torch.testing.assert_close(again(x), theirs(x))
