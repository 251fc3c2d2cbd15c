"""The groups of LoRA+ by hand and against PEFT's optimizer."""

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from companion.lora import add_lora, lora_layers, lora_parameters, lora_plus_groups, merge_lora_
from tests.lora.peft_oracle import llama, peft_twin


def names(model, groups):
    """Group → names of its parameters, each parameter in one group and trained."""
    name_of = {p: name for name, p in model.named_parameters()}
    members = [p for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {p for p in model.parameters() if p.requires_grad}
    return {group["name"]: {name_of[p] for p in group["params"]} for group in groups}


def model_of_all_kinds():
    model = nn.ModuleDict(
        {
            "table": nn.Embedding(11, 6),
            "q": nn.Linear(6, 5),
            "v": nn.Linear(6, 5),
            "image": nn.Conv2d(3, 5, 2),
            "head": nn.Linear(5, 7),
        }
    )
    add_lora(model, targets=["table", "q", "image"], rank=2, alpha=4.0)
    add_lora(model, targets=["v"], rank=2, alpha=4.0, variant="dora")
    model["head"].requires_grad_(True)
    return model


def test_groups_by_hand():
    model = model_of_all_kinds()
    groups = lora_plus_groups(model, lr=1e-3, ratio=8, lr_embedding=1e-5, weight_decay=0.1)
    assert names(model, groups) == {
        "A": {"q.a_RI", "v.a_RI", "image.a_RIKK", "head.weight"},
        "embedding": {"table.a_RV", "table.b_DR"},
        "B": {"q.b_OR", "v.b_OR", "image.b_OR11"},
        "vectors": {"v.magnitude_O", "head.bias"},
    }
    settings = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert settings == {
        "A": (1e-3, 0.1),
        "embedding": (1e-5, 0.1),
        "B": (8e-3, 0.1),
        "vectors": (8e-3, 0.0),
    }


def test_embeddings_take_the_rate_of_a_unless_told():
    groups = lora_plus_groups(model_of_all_kinds(), lr=1e-3, ratio=8)
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates["embedding"] == (1e-3, 0.0)


def test_empty_groups_are_left_out():
    model = add_lora(nn.Sequential(nn.Linear(6, 5)), targets=["0"], rank=2, alpha=4.0)
    groups = lora_plus_groups(model, lr=1e-3, ratio=8)
    assert [group["name"] for group in groups] == ["A", "B"]


@pytest.mark.parametrize("dora", [False, True])
def test_same_groups_as_peft(dora):
    targets = ["q_proj", "down_proj"] if dora else ["embed_tokens", "q_proj", "down_proj"]
    settings = {"targets": targets, "rank": 4, "alpha": 10}
    base = llama()
    ours = add_lora(llama(), **settings, variant="dora" if dora else "lora")
    theirs = peft_twin(base, ours, target_modules=targets, r=4, lora_alpha=10, use_dora=dora)
    peer = create_loraplus_optimizer(
        theirs,
        torch.optim.AdamW,
        lr=1e-3,
        loraplus_lr_ratio=8,
        loraplus_lr_embedding=1e-5,
        loraplus_weight_decay=0.1,
    )
    expected = {p: group for group in peer.param_groups for p in group["params"]}
    groups = lora_plus_groups(ours, lr=1e-3, ratio=8, lr_embedding=1e-5, weight_decay=0.1)
    rates = {p: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(rates) == len(expected) == len(list(lora_parameters(ours)))
    for name, layer in lora_layers(ours).items():
        twin = theirs.base_model.model.get_submodule(name)
        if "embed" in name:
            peers = [twin.lora_embedding_A["default"], twin.lora_embedding_B["default"]]
        else:
            peers = [twin.lora_A["default"].weight, twin.lora_B["default"].weight]
        if dora:
            peers.append(twin.lora_magnitude_vector["default"].weight)
        for parameter, peer in zip(layer.adapter_parameters(), peers, strict=True):
            rate, decay = rates[parameter]
            assert rate == pytest.approx(expected[peer]["lr"])
            if parameter.ndim == 1:
                assert decay == 0.0  # PEFT lets the magnitudes decay towards 0
            else:
                assert decay == expected[peer]["weight_decay"]


def test_an_optimizer_takes_the_groups_and_b_moves_further():
    model = add_lora(nn.Sequential(nn.Linear(6, 5)), targets=["0"], rank=2, alpha=4.0)
    optimizer = torch.optim.Adam(lora_plus_groups(model, lr=1e-3, ratio=8))
    layer = model[0]
    with torch.no_grad():
        layer.b_OR.fill_(1.0)
    before = [p.detach().clone() for p in (layer.a_RI, layer.b_OR)]
    model(torch.randn(11, 6)).square().sum().backward()
    optimizer.step()
    # Adam's first step has the size of the rate.
    for parameter, old, rate in zip((layer.a_RI, layer.b_OR), before, (1e-3, 8e-3), strict=True):
        torch.testing.assert_close(
            (parameter - old).abs(), torch.full_like(old, rate), atol=1e-6, rtol=1e-3
        )


def test_frozen_and_kept_weights_are_in_no_group():
    model = add_lora(nn.Sequential(nn.Linear(6, 5)), targets=["0"], rank=2, alpha=4.0)
    model[0].a_RI.requires_grad_(False)
    merge_lora_(model)
    groups = lora_plus_groups(model, lr=1e-3, ratio=8)
    assert names(model, groups) == {"B": {"0.b_OR"}}


def test_a_shared_parameter_is_in_one_group():
    model = nn.ModuleDict({"one": nn.Linear(6, 6), "two": nn.Linear(6, 6), "q": nn.Linear(6, 6)})
    add_lora(model, targets=["q"], rank=2, alpha=4.0)
    model["two"].weight = model["one"].weight.requires_grad_(True)
    groups = names(model, lora_plus_groups(model, lr=1e-3, ratio=8))
    assert groups["A"] == {"one.weight", "q.a_RI"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be a finite number more than 0, got 0"),
        ({"ratio": -1.0}, "ratio must be a finite number more than 0, got -1"),
        ({"lr_embedding": 0.0}, "lr_embedding must be a finite number more than 0, got 0"),
        ({"lr": float("nan")}, "lr must be a finite number more than 0, got nan"),
    ],
)
def test_impossible_rates(settings, message):
    with pytest.raises(ValueError, match=message):
        lora_plus_groups(model_of_all_kinds(), **{"lr": 1e-3, "ratio": 8} | settings)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="expected a model with trained parameters, got none"):
        lora_plus_groups(nn.Linear(6, 5).requires_grad_(False), lr=1e-3, ratio=8)
