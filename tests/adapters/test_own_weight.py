"""A weight that is made from others at every call: refused, and nothing is changed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from companion.lora import LoRALinear, add_lora, init_pissa_, merge_lora_, quantize_base_

MADE = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm by a hook": spectral_norm,
}
# A parametrized layer is of another type, and may be refused for that.
REFUSED = "expected a layer with a weight of its own|got ParametrizedLinear"


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))


@pytest.fixture(params=MADE)
def make(request):
    return MADE[request.param]


def unchanged(call, module):
    """The call is refused, and the module computes what it did."""
    x = torch.ones(2, 7)
    module.eval()
    before, names = module(x), [*module.state_dict()]
    state = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=REFUSED):
        call()
    assert [*module.state_dict()] == names
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(module(x), before)


@pytest.mark.parametrize("variant", ["lora", "dora", "pissa"])
def test_add_lora(make, variant):
    module = model()
    make(module[1])
    settings = {"rank": 2, "alpha": 4.0, "variant": variant}
    unchanged(lambda: add_lora(module, targets=["0", "1"], **settings), module)
    assert type(module[0]) is nn.Linear
    assert module[0].weight.requires_grad


def test_quantize_base(make):
    module = model()
    make(module[1])
    with pytest.raises(ValueError, match=REFUSED):
        quantize_base_(module, targets=["0", "1"])
    assert type(module[0]) is nn.Linear


def test_a_base_that_is_pruned_later(make):
    module = add_lora(model(), targets=["0", "1"], rank=2, alpha=4.0)
    make(module[1].base)
    unchanged(lambda: merge_lora_(module), module)
    assert not module[0].is_merged
    layer = LoRALinear(nn.Linear(7, 5), rank=2, alpha=4.0)
    make(layer.base)
    unchanged(lambda: init_pissa_(layer), layer)


def test_made_lasting_it_is_taken():
    module = model()
    prune.l1_unstructured(module[1], "weight", amount=0.5)
    prune.remove(module[1], "weight")
    assert merge_lora_(add_lora(module, targets=["1"], rank=2, alpha=4.0))[1].is_merged
