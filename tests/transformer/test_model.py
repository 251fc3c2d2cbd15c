"""What is passed in from outside: attention, precision, other modules, the first weights."""

import math

import pytest
import torch
import torch.nn.functional as F

from companion.flash import flash_attention, naive_attention
from companion.lora import add_lora
from companion.transformer import RMSNorm, Transformer, torch_attention

from .llama import model_of, poisoned_cache, sensitivity, sizes, tokens_of

WIDE = sizes(width=96)  # heads of 16, the least that FlashAttention takes


def loss_of(model, tokens):
    return F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("attention", [flash_attention, naive_attention])
def test_another_attention_gives_the_same(attention):
    tokens = tokens_of(WIDE)
    results = []
    for passed in (torch_attention, attention):
        model, cache = model_of(WIDE, passed), poisoned_cache(WIDE)
        with torch.no_grad():
            cached = [model(part, cache=cache) for part in tokens.split([5, 7, 1], dim=1)]
        loss_of(model, tokens).backward()
        results.append([*cached, *(weight.grad for weight in model.parameters())])
    torch.testing.assert_close(*results, atol=1e-10, rtol=0)


def test_torch_attention_refuses_two_masks():
    q = torch.ones(3, 2, 5, 4)
    with pytest.raises(ValueError, match="mask: expected None where causal=True, got a mask"):
        torch_attention(q, q, q, causal=True, mask=torch.ones(5, 5, dtype=torch.bool))
    torch.testing.assert_close(torch_attention(q, q, q.cumsum(2)), 3 * q)


def test_lora_trains_its_factors_alone():
    config, tokens = sizes(), tokens_of(sizes())
    model = model_of(config)
    before = model(tokens).detach()
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    add_lora(model, targets=names, rank=1, alpha=2.0, generator=torch.Generator().manual_seed(0))
    model.double()
    torch.testing.assert_close(model(tokens), before, atol=1e-12, rtol=0)
    loss_of(model, tokens).backward()
    with_gradient = [name for name, weight in model.named_parameters() if weight.grad is not None]
    assert len(with_gradient) == 2 * len(names) * config.layers
    assert all(name.endswith(("a_RI", "b_OR")) for name in with_gradient)
    assert all(p.grad.any() for name, p in model.named_parameters() if name.endswith("b_OR"))


def test_autocast_and_bfloat16():
    """Each weight is off by 2⁻⁸ of itself, and so are five numbers that it meets."""
    config, tokens = sizes(), tokens_of(sizes())
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).double()
    exact, bound = model(tokens)[:, -1], 6 * 2**-8 * sensitivity(model, tokens)
    assert bound.max() < 0.1 * exact.abs().max()
    model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = model(tokens)
        loss_of(model, tokens).backward()
        cache = poisoned_cache(config, dtype=torch.bfloat16)
        with torch.no_grad():
            cached = [model(part, cache=cache) for part in tokens.split(5, dim=1)][-1]
    for logits in (autocast, cached, model.to(torch.bfloat16)(tokens)):
        assert logits.dtype == torch.bfloat16
        assert ((logits[:, -1] - exact).abs() <= bound).all()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_the_norm_of_bfloat16_is_rounded_once():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4097, generator=generator).to(torch.bfloat16)
    norm = RMSNorm(4097, epsilon=0.25)
    torch.nn.init.normal_(norm.weight, generator=generator)
    norm.to(torch.bfloat16)
    exact = x.double() / (x.double().square().mean(dim=1, keepdim=True) + 0.25).sqrt()
    exact *= norm.weight.double()
    assert norm(x).dtype == torch.bfloat16
    assert ((norm(x) - exact).abs() <= 1.001 * 2**-8 * exact.abs()).all()


@pytest.mark.parametrize("tied", [True, False])
def test_first_weights_are_of_the_generator(tied):
    config = sizes(width=240, layers=8, tied=tied)
    state = torch.get_rng_state()
    model, again, other = (
        Transformer(config, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert (model.lm_head.weight is model.embed_tokens.weight) == tied
    for name, weight in model.named_parameters():
        assert torch.equal(weight, again.get_parameter(name))
        if "norm" in name:
            assert (weight == 1).all()
            continue
        assert not torch.equal(weight, other.get_parameter(name))
        # A deviation of n numbers is itself off by 1/√2n of it; 5 of those.
        expected = 0.02 / (4 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1)
        assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel()))


def test_training_lowers_the_loss():
    config = sizes()
    model, tokens = (
        Transformer(config, generator=torch.Generator().manual_seed(0)),
        tokens_of(config),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    assert loss_of(model, tokens).item() == pytest.approx(math.log(config.vocabulary), abs=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(model, tokens).backward()
        optimizer.step()
    assert loss_of(model, tokens).item() < 1
