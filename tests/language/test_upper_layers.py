"""The last layers alone give the whole model's loss, gradients and logits."""

import copy

import pytest
import torch
from torch import nn

from companion.language.records import Example, collate
from companion.language.upper_layers import (
    hidden_loss,
    mean_hidden_loss,
    store_hidden,
    upper_layers,
)
from companion.lora import add_lora, lora_layers, lora_parameters
from tests.language.tiny_language_model import llama

BATCHES = [
    [Example([5, 6, 7, 8, 9, 10, 0], 3), Example([11, 12, 13, 0], 1)],
    [Example([21, 22, 23, 24, 25], 2)],
]


@pytest.fixture
def model():
    return llama(seed=3, num_hidden_layers=5).double()


@pytest.mark.parametrize("first", [0, 2, 4])
def test_loss_is_that_of_transformers(model, first):
    stored = store_hidden(model, BATCHES, first=first)
    upper = upper_layers(model, first)
    for batch, part in zip(BATCHES, stored, strict=True):
        tokens, labels = collate(batch, pad_token=0)
        theirs = model(input_ids=tokens, labels=labels).loss
        ours = hidden_loss(upper, part)
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=0)


def test_hidden_states_are_those_of_transformers(model):
    tokens, _ = collate(BATCHES[0], pad_token=0)
    theirs = model(input_ids=tokens, output_hidden_states=True).hidden_states[3]
    (stored, _) = store_hidden(model, BATCHES, first=3)
    torch.testing.assert_close(stored.hidden_BTD, theirs)
    assert not stored.hidden_BTD.requires_grad


def test_mean_weighs_every_token_alike(model):
    upper, stored = upper_layers(model, 2), store_hidden(model, BATCHES, first=2)
    labelled = [4 + 3, 3]
    losses = [hidden_loss(upper, batch).item() for batch in stored]
    expected = sum(n * loss for n, loss in zip(labelled, losses, strict=True)) / sum(labelled)
    assert mean_hidden_loss(upper, stored) == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(sum(losses) / 2, rel=1e-4)


def test_gradients_are_those_of_the_whole_model(model):
    stored = store_hidden(model, BATCHES, first=3)
    upper = upper_layers(model, 3)
    add_lora(upper, targets=["q_proj", "down_proj"], rank=2, alpha=4.0)
    for layer in lora_layers(upper).values():
        nn.init.normal_(layer.b_OR, generator=torch.Generator().manual_seed(1))
    hidden_loss(upper, stored[0]).backward()
    ours = [p.grad.clone() for p in lora_parameters(upper)]
    for p in lora_parameters(upper):
        p.grad = None
    tokens, labels = collate(BATCHES[0], pad_token=0)
    model(input_ids=tokens, labels=labels).loss.backward()
    assert len(ours) == 8
    for mine, parameter in zip(ours, lora_parameters(model), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-5, atol=1e-8)


def test_parts_are_shared_and_the_model_keeps_its_layers(model):
    before = copy.deepcopy(model.state_dict())
    upper = upper_layers(model, 3)
    store_hidden(model, BATCHES, first=3)
    assert len(model.model.layers) == 5
    assert len(upper.model.layers) == 2
    assert upper.model.layers[0] is model.model.layers[3]
    add_lora(upper, targets=["q_proj"], rank=1, alpha=1.0)
    names = ["model.layers.3.self_attn.q_proj", "model.layers.4.self_attn.q_proj"]
    assert list(lora_layers(model)) == names
    after = {name.replace(".base.", "."): t for name, t in model.state_dict().items()}
    assert all(torch.equal(after[name], t) for name, t in before.items())


@pytest.mark.parametrize("first", [-1, 5])
def test_a_layer_that_is_not_there(model, first):
    with pytest.raises(ValueError, match=rf"first must be in \[0, 4\], got {first}"):
        upper_layers(model, first)
    with pytest.raises(ValueError, match=rf"first must be in \[0, 4\], got {first}"):
        store_hidden(model, BATCHES, first=first)


@pytest.mark.parametrize("call", [upper_layers, lambda m, k: store_hidden(m, BATCHES, first=k)])
def test_another_kind_of_model(call):
    with pytest.raises(TypeError, match=r"expected a causal .* with model.layers, got Linear"):
        call(nn.Linear(2, 2), 0)
