"""add_lora and remove_lora_: which layers are found, what is refused, and that errors undo all."""

import copy
import pickle

import pytest
import torch
from torch import nn

from companion.lora import (
    DoRALinear,
    LoRAConv2d,
    LoRAEmbedding,
    LoRALinear,
    add_lora,
    lora_layers,
    lora_parameters,
    merge_lora_,
    remove_lora_,
)
from tests.lora.peft_oracle import llama, randomise_, seeded, tokens


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(6, 10)
        self.k = nn.Linear(6, 10)
        self.norm = nn.LayerNorm(10)

    def forward(self, x):
        return self.norm(self.q(x) * self.k(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.image = nn.Conv2d(3, 5, 3)
        self.seq = nn.Linear(10, 3)  # ends with the letter q, but is not named q

    def forward(self, token):
        x = self.table(token)
        return self.seq(self.blocks[0](x) + self.blocks[1](x))


def state_of(model):
    """Everything that an error must leave as it was: modules, tensors by identity, flags."""
    modules = {name: (id(m), m.training) for name, m in model.named_modules()}
    parameters = {
        name: (id(p), p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()
    }
    return modules, parameters


def assert_unchanged(model, before):
    modules, parameters = state_of(model)
    assert modules == before[0]
    assert parameters.keys() == before[1].keys()
    for name, (identity, flag, value) in parameters.items():
        assert (identity, flag) == before[1][name][:2], name
        assert torch.equal(value, before[1][name][2]), name


# Which layers are found


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["q"], ["blocks.0.q", "blocks.1.q"]),
        (["k", "q"], ["blocks.0.q", "blocks.0.k", "blocks.1.q", "blocks.1.k"]),
        (["blocks.1.q"], ["blocks.1.q"]),
        (["1.q", "seq"], ["blocks.1.q", "seq"]),
        (("table", "image"), ["table", "image"]),
        (["q", "q", "0.q"], ["blocks.0.q", "blocks.1.q"]),
        (iter(["q", "image"]), ["blocks.0.q", "blocks.1.q", "image"]),
        ({"seq", "image"}, ["image", "seq"]),
    ],
)
def test_a_target_is_a_name_or_the_end_of_one_after_a_dot(targets, names):
    model = add_lora(Model(), targets=targets, rank=2, alpha=4.0)
    assert list(lora_layers(model)) == names
    assert all(lora_layers(model)[name] is model.get_submodule(name) for name in names)


def test_each_kind_of_layer_gets_its_own():
    model = add_lora(Model(), targets=["q", "table", "image"], rank=2, alpha=4.0)
    kinds = [type(layer) for layer in lora_layers(model).values()]
    assert kinds == [LoRAEmbedding, LoRALinear, LoRALinear, LoRAConv2d]


def test_the_model_is_changed_in_place_and_returned():
    model = Model()
    base = model.blocks[0].q
    assert add_lora(model, targets=["q"], rank=2, alpha=4.0) is model
    assert model.blocks[0].q.base is base


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_variants(variant):
    model = add_lora(Model(), targets=["q"], rank=4, alpha=6.0, variant=variant)
    for layer in lora_layers(model).values():
        assert layer.variant == variant
        assert type(layer) is (DoRALinear if variant == "dora" else LoRALinear)
        assert layer.scale == (3.0 if variant == "rslora" else 1.5)
        assert layer.rank == 4
        assert layer.alpha == 6.0


def test_settings_reach_every_layer():
    model = add_lora(Model(), targets=["q", "table"], rank=2, alpha=4.0, dropout=0.25)
    assert {layer.dropout for layer in lora_layers(model).values()} == {0.25}


def test_a_new_adapter_changes_nothing_yet():
    base = llama()
    ids = tokens(3, 7)
    for variant in ("lora", "rslora", "dora"):
        model = copy.deepcopy(base)
        add_lora(model, targets=["q_proj", "down_proj"], rank=4, alpha=16.0, variant=variant)
        assert torch.equal(model(ids).logits, base(ids).logits)


# What is trained


def test_only_adapters_are_trained():
    model = add_lora(Model(), targets=["q", "table"], rank=2, alpha=4.0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        "table.a_RV",
        "table.b_DR",
        *(f"blocks.{i}.q.{factor}" for i in (0, 1) for factor in ("a_RI", "b_OR")),
    }
    assert {id(p) for p in lora_parameters(model)} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    randomise_(model)
    model(torch.tensor([1, 2])).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained


def test_a_second_call_adds_to_the_first_which_goes_on_training():
    model = add_lora(Model(), targets=["q"], rank=2, alpha=4.0)
    model.blocks[0].q.a_RI.requires_grad_(False)  # the reader's choice
    add_lora(model, targets=["k"], rank=3, alpha=4.0, variant="dora")
    assert [layer.rank for layer in lora_layers(model).values()] == [2, 3, 2, 3]
    flags = {name: p.requires_grad for name, p in model.named_parameters() if "q." in name}
    assert flags["blocks.1.q.a_RI"]
    assert flags["blocks.0.q.b_OR"]
    assert not flags["blocks.0.q.a_RI"]
    assert not flags["blocks.0.q.base.weight"]


def test_factors_come_from_the_generator_alone_in_the_models_order():
    before = torch.get_rng_state()
    with torch.random.fork_rng():
        base = Model()
    settings = {"rank": 2, "alpha": 4.0}
    one, same, other = (
        add_lora(copy.deepcopy(base), targets=targets, **settings, generator=seeded(seed))
        for targets, seed in ((["q", "seq"], 3), (["seq", "q"], 3), (["q", "seq"], 4))
    )
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(*map(lora_parameters, (one, same, other)), strict=True):
        assert torch.equal(a, b)
        assert not a.any() or not torch.equal(a, c)
    first, second = (one.blocks[i].q.a_RI for i in (0, 1))
    assert not torch.equal(first, second)


def test_lora_parameters_gives_each_once():
    shared = nn.Linear(6, 6)
    model = nn.ModuleDict({"q": shared, "block": nn.ModuleDict({"q": shared})})
    add_lora(model, targets=["q"], rank=2, alpha=4.0)
    assert model["q"] is model["block"]["q"]
    assert len(list(lora_parameters(model))) == 2
    assert list(lora_layers(model)) == ["q"]
    remove_lora_(model)
    assert model["q"] is model["block"]["q"] is shared


def test_a_factor_that_two_layers_share_is_given_once():
    model = add_lora(Model(), targets=["q"], rank=2, alpha=4.0)
    model.blocks[1].q.a_RI = model.blocks[0].q.a_RI
    assert len(list(lora_parameters(model))) == 3


def test_a_shared_block_is_adapted_once():
    block = Block()
    model = nn.ModuleDict({"first": block, "second": block})
    add_lora(model, targets=["q"], rank=2, alpha=4.0)
    assert len(lora_layers(model)) == 1
    assert isinstance(model["second"].q.base, nn.Linear)


def test_copies_of_an_adapted_model():
    model = randomise_(add_lora(Model(), targets=["q", "table"], rank=2, alpha=4.0))
    ids = torch.tensor([1, 2, 10])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(ids), model(ids))
        assert list(lora_layers(other)) == list(lora_layers(model))


# What is refused, and that the model is then as it was


REFUSED = [
    ({"targets": ["blocks.0.qq"]}, r"got 'blocks\.0\.qq'; near: .*blocks\.0\.q"),
    ({"targets": ["tabel"]}, "got 'tabel'; near: table"),
    ({"targets": ["q", "imag"]}, "got 'imag'; near: image"),
    ({"targets": ["zzzzz"]}, r"got 'zzzzz'; near: image, k, q, seq, table"),
    ({"targets": ["norm"]}, r"blocks\.0\.norm: expected nn.Linear, .* got LayerNorm"),
    ({"targets": ["q", "blocks.1"]}, r"blocks\.1: expected nn.Linear, .* got Block"),
    ({"targets": []}, "targets: expected at least one name, got none"),
    ({"targets": [""]}, "targets: expected the name of a layer or its end, got ''"),
    ({"rank": 7}, r"blocks\.0\.q: rank must be in \[1, 6\], got 7"),
    ({"targets": ["q", "seq"], "rank": 5}, r"seq: rank must be in \[1, 3\], got 5"),
    ({"alpha": 0.0}, "alpha: expected a finite number > 0, got 0"),
    ({"dropout": 1.0}, r"dropout: expected a probability in \[0, 1\), got 1"),
    ({"variant": "adalora"}, r"variant: expected one of .*'pissa'.*, got 'adalora'"),
    ({"variant": "dora", "targets": ["q", "table"]}, "table: .*'dora' expects a linear .* Embedd"),
    ({"variant": "pissa", "targets": ["q", "image"]}, "image: .*'pissa' expects .* Conv2d"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_refused(settings, message):
    model = Model().eval()
    model.blocks[1].k.weight.requires_grad_(False)
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        add_lora(model, **{"targets": ["q"], "rank": 2, "alpha": 4.0} | settings)
    assert_unchanged(model, before)


def test_one_string_is_not_a_list_of_letters():
    model = Model()
    before = state_of(model)
    with pytest.raises(TypeError, match=r"targets: .* got one string: \['qk'\]\?"):
        add_lora(model, targets="qk", rank=2, alpha=4.0)
    assert_unchanged(model, before)


@pytest.mark.parametrize("targets", [["q"], ["k", "blocks.0.q"]])
def test_a_second_adapter_on_a_layer_is_refused(targets):
    model = add_lora(Model(), targets=["q"], rank=2, alpha=4.0)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"blocks\.0\.q: expected a layer without LoRA"):
        add_lora(model, targets=targets, rank=2, alpha=4.0)
    assert_unchanged(model, before)


def test_the_inside_of_an_adapter_is_not_a_target():
    model = add_lora(Model(), targets=["q"], rank=2, alpha=4.0)
    with pytest.raises(ValueError, match="got 'base'"):
        add_lora(model, targets=["base"], rank=2, alpha=4.0)


def test_nan_in_one_of_pissas_weights_undoes_the_layers_before_it():
    model = Model()
    with torch.no_grad():
        model.blocks[1].q.weight[2, 3] = torch.nan
    before = state_of(model)
    clean = copy.deepcopy(model.blocks[0].q.weight)
    with pytest.raises(ValueError, match=r"blocks\.1\.q: base: expected a finite weight"):
        add_lora(model, targets=["q"], rank=2, alpha=4.0, variant="pissa")
    with torch.no_grad():  # NaN is not equal to itself: compare without it
        for model_or_state in (model.blocks[1].q.weight, before[1]["blocks.1.q.weight"][2]):
            model_or_state.nan_to_num_(0.0)
    assert_unchanged(model, before)
    assert torch.equal(model.blocks[0].q.weight, clean)


def test_running_out_of_memory_undoes_everything(monkeypatch):
    model = Model()
    before = state_of(model)

    def out_of_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(LoRAConv2d, "__init__", out_of_memory)
    with pytest.raises(MemoryError):
        add_lora(model, targets=["q", "image"], rank=2, alpha=4.0)
    assert_unchanged(model, before)


def test_part_of_a_shared_layer_is_refused():
    shared = nn.Linear(6, 6)
    model = nn.ModuleDict({"embed": shared, "head": shared})
    with pytest.raises(ValueError, match=r"head: expected to be a target too, .* as embed;"):
        add_lora(model, targets=["embed"], rank=2, alpha=4.0)
    assert model["embed"] is shared
    assert shared.weight.requires_grad


def test_a_model_without_layers_to_adapt():
    with pytest.raises(ValueError, match="got 'q'; the model has no layer of that kind"):
        add_lora(nn.Sequential(nn.ReLU()), targets=["q"], rank=2, alpha=4.0)


def test_the_layer_itself_has_no_name_to_match():
    with pytest.raises(ValueError, match="the model has no layer of that kind"):
        add_lora(nn.Linear(6, 6), targets=["weight"], rank=2, alpha=4.0)


# Taking the adapters out


def test_removing_unmerged_adapters_restores_the_model():
    model = Model()
    modules = dict(model.named_modules())
    ids = torch.tensor([1, 2, 10])
    expected = model(ids)
    randomise_(add_lora(model, targets=["q", "table", "image"], rank=2, alpha=4.0))
    assert not torch.allclose(model(ids), expected)
    assert remove_lora_(model) is model
    assert dict(model.named_modules()) == modules
    assert torch.equal(model(ids), expected)
    assert not lora_layers(model)


def test_removing_merged_adapters_keeps_what_they_do():
    model = randomise_(add_lora(Model().double(), targets=["q", "table"], rank=2, alpha=4.0))
    ids = torch.tensor([1, 2, 10])
    expected = model(ids)
    remove_lora_(merge_lora_(model))
    torch.testing.assert_close(model(ids), expected)
    assert {type(m) for m in model.modules()} == {type(m) for m in Model().modules()}
    assert model.state_dict().keys() == Model().state_dict().keys()


def test_what_removing_refuses():
    with pytest.raises(ValueError, match="expected a model that holds LoRA layers, got none"):
        remove_lora_(Model())
    with pytest.raises(ValueError, match="holds LoRA layers, got one itself"):
        remove_lora_(LoRALinear(nn.Linear(6, 5), rank=2, alpha=4.0))


def test_pissas_residual_is_not_the_model():
    model = add_lora(Model().double(), targets=["q"], rank=2, alpha=4.0, variant="pissa")
    add_lora(model, targets=["k"], rank=2, alpha=4.0)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"blocks\.0\.q: expected a merged layer, got PiSSA's res"):
        remove_lora_(model)
    assert_unchanged(model, before)
    ids = torch.tensor([1, 2, 10])
    expected = model(ids)
    torch.testing.assert_close(remove_lora_(merge_lora_(model))(ids), expected)
