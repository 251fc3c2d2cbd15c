"""Our attention in small models of transformers: same numbers, same text, clear refusals."""

import pytest
import torch
from torch import nn
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
)

from companion.flash import language_model
from companion.flash.language_model import first_layers, use_flash_attention
from companion.measure.peak_memory import peak_bytes

SIZES = {
    "vocab_size": 131,
    "hidden_size": 6 * 18,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def built(kind, config, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).double().eval()
        for parameter in model.parameters():  # sharper attention than a fresh model's
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.2)
    return model.to(dtype)


def llama(dtype=torch.float64, **settings):
    return built(LlamaForCausalLM, LlamaConfig(**SIZES | settings), dtype)


def tokens(*shape):
    return torch.randint(131, shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model():
    """Shared: no test may change it for the next."""
    return llama()


@pytest.fixture
def calls(monkeypatch):
    """(T, S) of each call of flash_attention."""
    seen = []
    real = language_model.flash_attention

    def spy(q, k, v, **settings):
        seen.append((q.shape[2], k.shape[2]))
        return real(q, k, v, **settings)

    monkeypatch.setattr(language_model, "flash_attention", spy)
    return seen


def sdpa(model, *arguments, **settings):
    """The oracle; "eager" is no better than float32, as it takes its softmax there."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        return model(*arguments, **settings)
    finally:
        model.set_attn_implementation(before)


# The same numbers


@pytest.mark.parametrize("length", [1, 3, 113, 257])
def test_logits_are_those_of_sdpa(model, calls, length):
    ids = tokens(2, length)
    with use_flash_attention(model), torch.no_grad():
        logits = model(ids).logits
    assert calls == [(length, length)] * 3
    torch.testing.assert_close(logits, sdpa(model, ids).logits, atol=1e-10, rtol=1e-8)


def test_gradients_are_those_of_sdpa(model):
    ids = tokens(2, 37)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(sdpa(model, ids, labels=ids).loss, parameters)
    with use_flash_attention(model):
        got = torch.autograd.grad(model(ids, labels=ids).loss, parameters)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-7)


@pytest.mark.parametrize("peer", ["eager", "sdpa"])
def test_greedy_text_is_the_same(model, calls, peer):
    """After the prompt, each step has one query and one key more."""
    ids = tokens(2, 7)
    settings = {"max_new_tokens": 9, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    model.set_attn_implementation(peer)
    expected = model.generate(ids, **settings)
    with use_flash_attention(model):
        assert torch.equal(model.generate(ids, **settings), expected)
    assert calls == [(7, 7)] * 3 + [(1, 7 + i) for i in range(1, 9) for _ in range(3)]
    assert model.config._attn_implementation == peer


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_a_prompt_in_chunks(model, calls, chunk):
    """T < S: each chunk sees the cache and itself, not what comes after."""
    ids = tokens(2, 33)
    expected = sdpa(model, ids, use_cache=False).logits
    cache = DynamicCache(config=model.config)
    with use_flash_attention(model), torch.no_grad():
        # By place: transformers renames this argument.
        parts = [model(part, None, None, cache).logits for part in ids.split(chunk, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-10, rtol=1e-8)
    assert calls[-1] == (33 % chunk or chunk, 33)


def test_another_kind_of_model():
    config = GPT2Config(n_embd=48, n_layer=2, n_head=3, n_positions=64, vocab_size=131)
    model = built(GPT2LMHeadModel, config)
    ids = tokens(2, 21)
    with use_flash_attention(model), torch.no_grad():
        logits = model(ids).logits
    torch.testing.assert_close(logits, sdpa(model, ids).logits, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3)])
def test_precisions(model, dtype, atol):
    ids = tokens(1, 65)
    expected = sdpa(model, ids).logits
    lower = llama(dtype)
    with use_flash_attention(lower), torch.no_grad():
        logits = lower(ids).logits
    assert logits.dtype == dtype
    error = (logits.double() - expected).abs().mean()
    assert error < atol
    assert error < 1.5 * (sdpa(lower, ids).logits.double() - expected).abs().mean() + 1e-6


def test_memory_grows_with_the_length_not_its_square():
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1}
    model = llama(torch.float32, intermediate_size=8, num_hidden_layers=2, **sizes)
    once, twice = tokens(1, 2048), tokens(1, 4096)  # from here on tiles grow no more

    def run(ids):
        with torch.no_grad():
            model(ids, use_cache=False, logits_to_keep=1)

    with use_flash_attention(model):
        small, large = (peak_bytes(lambda ids=ids: run(ids)) for ids in (once, twice))
    assert large < 2.2 * small
    model.set_attn_implementation("eager")
    assert peak_bytes(lambda: run(once)) > 4 * 3 * 2048**2  # one matrix of the three heads
    assert peak_bytes(lambda: run(once)) > 5 * large


# Afterwards it is as it was


@pytest.mark.parametrize("before", ["eager", "sdpa"])
def test_restored_also_after_an_error(model, calls, before):
    model.set_attn_implementation(before)

    def fails():
        with use_flash_attention(model):
            assert model.config._attn_implementation not in ("eager", "sdpa")
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fails()
    assert model.config._attn_implementation == before
    model(tokens(1, 5))
    assert calls == []


def test_one_inside_another(model, calls):
    with use_flash_attention(model) as outer, use_flash_attention(outer) as inner:
        assert inner is outer is model
        inner(tokens(1, 5))
    assert len(calls) == 3
    assert model.config._attn_implementation in ("eager", "sdpa")


def test_first_layers(model):
    ids = tokens(1, 5)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
        with first_layers(model, 2) as short:
            logits = short(ids).logits
        assert model.config.num_hidden_layers == 3
        torch.testing.assert_close(logits, model.lm_head(model.model.norm(states[2])))
    for count in (0, 4):
        with (
            pytest.raises(ValueError, match=rf"count must be in \[1, 3\], got {count}"),
            first_layers(model, count),
        ):
            pass


# What is refused


def test_padding(model):
    ids, mask = tokens(3, 7), torch.ones(3, 7, dtype=torch.long)
    mask[1, :2] = 0
    with (
        use_flash_attention(model),
        pytest.raises(ValueError, match="must be all ones, got padding in 1 of 3 texts"),
    ):
        model(ids, attention_mask=mask)


PACKED = torch.tensor([[0, 1, 2, 0, 1]])


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model(tokens(1, 5), position_ids=PACKED, use_cache=False),
        lambda model: model(tokens(1, 5), position_ids=PACKED),  # with the default cache
        lambda model: model(tokens(1, 5), torch.ones(1, 5), PACKED),
        lambda model: model(tokens(2, 5), position_ids=torch.cat([torch.arange(5)[None], PACKED])),
        lambda model: model.model(tokens(1, 5), position_ids=PACKED),
        lambda model: model(tokens(1, 5), position_ids=torch.tensor([[0, 1, 2, 4, 5]])),
    ],
)
def test_packed_texts(model, call):
    with use_flash_attention(model), pytest.raises(ValueError, match="packed into one"):
        call(model)


def test_positions_that_count_up(model):
    """Of one text, of several rows that begin elsewhere, and of one token after a cache."""
    ids, positions = tokens(2, 5), torch.arange(5) + torch.tensor([[3], [0]])
    expected = model(ids, position_ids=positions).logits
    with use_flash_attention(model):
        torch.testing.assert_close(model(ids, position_ids=positions).logits, expected)
        first = model(ids[:, :4], position_ids=positions[:, :4])
        last = model(ids[:, 4:], None, positions[:, 4:], first.past_key_values)
    torch.testing.assert_close(last.logits, expected[:, 4:])
    model(tokens(1, 5), position_ids=PACKED)  # and outside, packed texts are transformers' again


def test_a_mask_of_the_callers(model):
    with use_flash_attention(model), pytest.raises(ValueError, match="no mask of the caller's"):
        model(tokens(1, 5), attention_mask=torch.zeros(1, 1, 5, 5, dtype=torch.float64))


def test_attention_weights(model):
    with use_flash_attention(model), pytest.raises(ValueError, match="output_attentions=True"):
        model(tokens(1, 5), output_attentions=True)
    other = llama(attn_implementation="eager", output_attentions=True)
    with (
        pytest.raises(ValueError, match=r"set config\.output_attentions = False"),
        use_flash_attention(other),
    ):
        pass
    assert other.config._attn_implementation == "eager"


def test_dropout():
    model = llama(attention_dropout=0.25)
    with use_flash_attention(model):
        model(tokens(1, 5))  # in eval mode there is none
        model.train()
        with pytest.raises(ValueError, match=r"no dropout, got attention_dropout=0\.25"):
            model(tokens(1, 5))


def test_a_cache_of_a_fixed_size(model):
    cache = StaticCache(config=model.config, max_cache_len=16)
    with (
        use_flash_attention(model),
        pytest.raises(ValueError, match=r"got 0 \+ 5 tokens in a cache of 16 from 0 on"),
    ):
        model(tokens(1, 5), None, None, cache)


def test_a_sliding_window():
    model = built(MistralForCausalLM, MistralConfig(**SIZES, head_dim=18, sliding_window=4))
    with use_flash_attention(model), pytest.raises(ValueError, match="sliding window"):
        model(tokens(1, 9))


def test_sinks(model):
    """A tensor that an attention would add to its scores; whether it is true is undefined."""
    layer = model.model.layers[0].self_attn
    q = torch.ones(1, 3, 2, 16)
    with pytest.raises(ValueError, match="does not do s_aux"):
        language_model._attention(layer, q, q, q, None, s_aux=torch.zeros(3))


def test_both_directions():
    model = llama(is_causal=False)
    with use_flash_attention(model), pytest.raises(ValueError, match="both directions"):
        model(tokens(1, 5))


def test_what_is_not_a_model():
    with (
        pytest.raises(TypeError, match="a transformers PreTrainedModel, got Linear"),
        use_flash_attention(nn.Linear(3, 5)),
    ):
        pass
