"""Which layers a target means."""

import pytest
from torch import nn

from companion.adapters.matching import matching_layers, replace_layers_


def block():
    return nn.ModuleDict({"q_proj": nn.Linear(2, 3), "norm": nn.LayerNorm(3), "v": nn.Linear(3, 2)})


def model():
    return nn.ModuleDict({"layers": nn.ModuleList([block(), block()]), "q_proj": nn.Linear(2, 3)})


def names(module, targets):
    def accepts(layer):
        return type(layer) is nn.Linear

    found = matching_layers(module, targets, accepts=accepts, expected="nn.Linear")
    assert all(module.get_submodule(name) is layer for layer, name in found.items())
    return list(found.values())


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], ["layers.0.q_proj", "layers.1.q_proj", "q_proj"]),
        (["v"], ["layers.0.v", "layers.1.v"]),
        (["1.q_proj"], ["layers.1.q_proj"]),
        (["layers.0.q_proj"], ["layers.0.q_proj"]),
        (["v", "q_proj"], [
            "layers.0.q_proj", "layers.0.v", "layers.1.q_proj", "layers.1.v", "q_proj",
        ]),
        (("v", "1.v"), ["layers.0.v", "layers.1.v"]),
    ],
)  # fmt: skip
def test_names_and_ends_of_names_in_the_models_order(targets, expected):
    assert names(model(), targets) == expected


def test_a_name_is_matched_as_a_whole():
    with pytest.raises(ValueError, match="got 'proj'; near: q_proj"):
        names(model(), ["proj"])
    with pytest.raises(ValueError, match=r"layers\.0: expected nn\.Linear, got ModuleDict"):
        names(model(), ["layers.0"])


def test_other_kinds_of_the_same_name_are_passed_over():
    mixed = nn.ModuleList([nn.ModuleDict({"x": nn.ReLU()}), nn.ModuleDict({"x": nn.Linear(2, 3)})])
    assert names(mixed, ["x"]) == ["1.x"]


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ("q_proj", TypeError, r"expected a sequence of names, got one string: \['q_proj'\]\?"),
        ([], ValueError, "targets: expected at least one name, got none"),
        (["q_porj"], ValueError, "got 'q_porj'; near: q_proj$"),
        (["v", "0.q_prj"], ValueError, r"got '0\.q_prj'; near: 0\.q_proj, 1\.q_proj"),
        (["zzz"], ValueError, "got 'zzz'; near: q_proj, v$"),
        (["norm"], ValueError, r"layers\.0\.norm: expected nn\.Linear, got LayerNorm"),
        ([""], ValueError, "got ''"),
    ],
)
def test_what_is_refused(targets, error, message):
    with pytest.raises(error, match=message):
        names(model(), targets)


def test_a_model_without_layers_of_the_kind():
    with pytest.raises(ValueError, match="got 'x'; the model has no layer of that kind"):
        names(nn.Sequential(nn.ReLU()), ["x"])
    with pytest.raises(ValueError, match="got '0'"):
        names(nn.Linear(2, 3), ["0"])


def test_a_layer_with_two_names_is_one_layer():
    shared = nn.Linear(2, 2)
    twice = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.ReLU(), shared)})
    assert names(twice, ["a", "b.1"]) == ["a"]
    with pytest.raises(
        ValueError, match=r"b\.1: expected to be a target too, .* as a; got targets"
    ):
        names(twice, ["a"])
    with pytest.raises(ValueError, match=r"a: expected to be a target too, .* as b\.1; got"):
        names(twice, ["1"])
    other = nn.ReLU()
    replace_layers_(twice, {shared: other})
    assert twice["a"] is other
    assert twice["b"][1] is other


def test_a_layer_can_be_replaced_by_one_that_holds_it():
    inner = nn.Linear(2, 2)
    chain = nn.Sequential(nn.ReLU(), inner)
    outer = nn.Sequential(inner)
    replace_layers_(chain, {inner: outer})
    assert chain[1] is outer
    assert outer[0] is inner
