"""Each wrong argument is refused with what was expected and what came."""

import pytest
import torch

from companion.transformer import KVCache, Transformer

from .llama import BATCH, model_of, poisoned_cache, sizes, tokens_of

CONFIG = sizes()
TOKENS = tokens_of(CONFIG, 5)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"vocabulary": 0}, ValueError, "vocabulary must be at least 1, got 0"),
        ({"layers": 2.0}, TypeError, "layers: expected an integer, got 2.0"),
        ({"width": 25}, ValueError, "width: expected an even multiple of 6 heads, got 25"),
        ({"width": 18}, ValueError, "width: expected an even multiple of 6 heads, got 18"),
        ({"key_heads": 4}, ValueError, "key_heads: expected a divisor of 6 heads, got 4"),
        ({"rotary_base": 0}, ValueError, "rotary_base must be .* more than 0, got 0"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be .* more than 0, got -1.0"),
        ({"tied": 1}, TypeError, "tied: expected True or False, got 1"),
    ],
)
def test_config(wrong, error, match):
    with pytest.raises(error, match=match):
        sizes(**wrong)


def test_parts():
    with pytest.raises(TypeError, match="attention: expected Callable, got 'sdpa'"):
        Transformer(CONFIG, attention="sdpa")
    with pytest.raises(TypeError, match="config: expected TransformerConfig, got None"):
        Transformer(None)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"tokens_BT": TOKENS.float()}, TypeError, "tokens: expected .* int64, got torch.float32"),
        ({"tokens_BT": [[1]]}, TypeError, "tokens: expected a tensor of int32 or int64, got list"),
        ({"tokens_BT": TOKENS[0]}, ValueError, r"tokens: expected shape \(B, T\) .* got \(5,\)"),
        ({"tokens_BT": TOKENS[:, :0]}, ValueError, r"T at least 1, got \(3, 0\)"),
        ({"tokens_BT": TOKENS + 31}, ValueError, r"tokens: expected integers in \[0, 30\], got"),
        ({"tokens_BT": tokens_of(CONFIG, 18)}, ValueError, "most 17 positions, got 0 and 18 more"),
        ({"positions": torch.arange(4)}, ValueError, r"shape \(5,\) or \(3, 5\), got \(4,\)"),
        ({"positions": torch.arange(13, 18)}, ValueError, r"in \[0, 16\], got 13 to 17"),
        ({"mask": torch.ones(5, 5)}, TypeError, "mask: expected .* booleans, got torch.float32"),
        (
            {"mask": torch.ones(3, 5, 5, dtype=torch.bool)},
            ValueError,
            r"mask: expected shape \(5, 5\) or \(3, 1, 5, 5\) or \(1, 1, 5, 5\), got \(3, 5, 5\)",
        ),
    ],
)
def test_call(wrong, error, match):
    for call in (model := model_of(CONFIG)), model.hidden_states:
        with pytest.raises(error, match=match):
            call(**{"tokens_BT": TOKENS} | wrong)


@pytest.mark.parametrize(
    ("config", "settings", "match"),
    [
        (CONFIG, {"batch": 2}, r"k: expected shape .*\[2, 2, 5, 4\].* got .*\[3, 2, 5, 4\]"),
        (CONFIG, {"dtype": torch.float32}, "k: expected dtype torch.float32, .*got torch.float64"),
        (CONFIG, {"device": "meta"}, "k: expected device meta, .*got cpu"),
        (CONFIG, {"max_length": 4}, "cache: expected at most 4 more entries, got 5"),
        (sizes(key_heads=3), {}, r"expected shape .*\[3, 3, 5, 4\].* got .*\[3, 2, 5, 4\]"),
        (sizes(layers=1), {}, r"layer must be in \[0, 0\], got 1"),
    ],
)
def test_a_cache_that_does_not_fit(config, settings, match):
    cache = poisoned_cache(config, **settings)
    with torch.no_grad(), pytest.raises(ValueError, match=match):
        model_of(CONFIG)(TOKENS, cache=cache)
    assert cache.length == 0


def test_a_cache_keeps_no_gradients_and_no_positions_beyond_the_last():
    model, cache = model_of(CONFIG), poisoned_cache(CONFIG, max_length=29)
    with pytest.raises(ValueError, match=r"k: expected no gradient.*torch\.no_grad"):
        model(TOKENS, cache=cache)
    with torch.no_grad():
        model(tokens_of(CONFIG), cache=cache)
        with pytest.raises(ValueError, match="expected at most 17 positions, got 13 and 5 more"):
            model(TOKENS, cache=cache)
    assert cache.length == 13


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        ({"max_length": 0}, ValueError, "max_length must be at least 1, got 0"),
        ({"dtype": torch.int64}, TypeError, "dtype: expected .*floating-point.* got torch.int64"),
        ({"config": 3}, TypeError, "config: expected TransformerConfig, got 3"),
    ],
)
def test_new_cache(wrong, error, match):
    with pytest.raises(error, match=match):
        KVCache(**{"config": CONFIG, "batch": 3} | wrong)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda c: c.keep([0, 1]), TypeError, "indices: expected a tensor of int32 .* got list"),
        (lambda c: c.keep(torch.tensor([0, 1, 1])), ValueError, r"increase, got \[0, 1, 1\]"),
        (lambda c: c.keep(torch.tensor([1, 0])), ValueError, r"increase, got \[1, 0\]"),
        (lambda c: c.keep(torch.tensor([0, 5])), ValueError, r"in \[0, 4\], got 0 to 5"),
        (lambda c: c.keep(torch.tensor([-1, 2])), ValueError, r"in \[0, 4\], got -1 to 2"),
        (lambda c: c.keep(torch.tensor(2)), ValueError, r"shape \(0,\) or \(3, 0\), got \(\)"),
        (lambda c: c.keep(torch.ones(2, 1).int()), ValueError, r"\(3, 1\), got \(2, 1\)"),
        (lambda c: c.truncate(6), ValueError, r"length must be in \[0, 5\], got 6"),
        (lambda c: c.truncate(-1), ValueError, r"length must be in \[0, 5\], got -1"),
        (lambda c: c.advance(13), ValueError, r"count must be in \[0, 12\], got 13"),
    ],
)
def test_changes_of_a_cache(change, error, match):
    cache = KVCache(CONFIG, batch=BATCH)
    cache.advance(5)
    with pytest.raises(error, match=match):
        change(cache)
    assert cache.length == 5
