"""The model against transformers' Llama with the same weights."""

import pytest
import torch
import torch.nn.functional as F

from .llama import float32_bound, llama_like, model_of, sizes, tokens_of

CONFIGS = [sizes(), sizes(tied=False), sizes(key_heads=None), sizes(key_heads=1, layers=3)]


@pytest.mark.parametrize("config", CONFIGS, ids=["tied", "untied", "G=H", "G=1"])
def test_logits_hidden_states_and_gradients(config):
    model, tokens = model_of(config), tokens_of(config)
    llama = llama_like(model)
    theirs = llama(tokens, output_hidden_states=True)
    ours = model(tokens)
    torch.testing.assert_close(ours, theirs.logits, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        model.hidden_states(tokens), theirs.hidden_states[-1], atol=1e-10, rtol=0
    )
    for logits in (ours, theirs.logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    gradients = {name: p.grad for name, p in llama.named_parameters()}
    assert len(gradients) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        their_name = name if name == "lm_head.weight" else f"model.{name}"
        torch.testing.assert_close(weight.grad, gradients[their_name], atol=1e-10, rtol=0)


def test_float32_is_as_near_as_its_rounding_allows():
    model, tokens = model_of(sizes()), tokens_of(sizes())
    exact = llama_like(model)(tokens).logits[:, -1].detach()
    bound = float32_bound(model, tokens)
    assert bound.max() < 0.01 * exact.abs().max()
    assert ((model.float()(tokens)[:, -1] - exact).abs() <= bound).all()
