"""Decoding with a cache, against the model without one."""

import pytest
import torch

from companion.transformer import KVCache, torch_attention

from .llama import BATCH, LENGTH, float32_bound, model_of, poisoned_cache, sizes, tokens_of

CONFIG = sizes()
# Node i of a tree hangs below node PARENTS[i], or below the text.
PARENTS = [None, 0, 0, 1, 1, 2, 5]
DEPTHS = torch.tensor([0, 1, 1, 2, 2, 2, 3])
PREFIX = 4


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def path_to(node, parents):
    return [] if node is None else [*path_to(parents[node], parents), node]


def tree_mask(parents):
    mask = torch.zeros(len(parents), PREFIX + len(parents), dtype=torch.bool)
    mask[:, :PREFIX] = True
    for node in range(len(parents)):
        mask[node, [PREFIX + seen for seen in path_to(node, parents)]] = True
    return mask


def with_prefix():
    model, tokens = model_of(CONFIG), tokens_of(CONFIG)
    cache = poisoned_cache(CONFIG)
    model(tokens[:, :PREFIX], cache=cache)
    return model, tokens[:, :PREFIX], tokens[:, PREFIX : PREFIX + len(PARENTS)], cache


def test_chunks_of_1_3_and_the_rest():
    model, tokens, cache = model_of(CONFIG), tokens_of(CONFIG), poisoned_cache(CONFIG)
    chunks = tokens.split([1, 3, LENGTH - 4], dim=1)
    close(torch.cat([model(chunk, cache=cache) for chunk in chunks], dim=1), model(tokens))
    assert cache.length == LENGTH
    cache.truncate(5)
    assert cache.length == 5
    hidden = model.hidden_states(tokens[:, 5:], cache=cache)
    close(hidden, model.hidden_states(tokens)[:, 5:])
    assert cache.length == LENGTH


def test_chunks_in_float32():
    model, tokens = model_of(CONFIG), tokens_of(CONFIG)
    exact = model(tokens)[:, -1]
    with torch.enable_grad():
        bound = float32_bound(model, tokens)
    cache = poisoned_cache(CONFIG, dtype=torch.float32)
    logits = [model.float()(chunk, cache=cache) for chunk in tokens.split(3, dim=1)][-1]
    assert ((logits[:, -1] - exact).abs() <= bound).all()


def test_a_tree_in_one_pass_is_each_path_alone():
    model, prefix, nodes, cache = with_prefix()
    other = [None, 0, 1, 2, 0, 4, 5]  # each row of a batch may have its own
    depths = torch.tensor([0, 1, 2, 3, 1, 2, 3])
    trees, rows = [PARENTS, other, PARENTS], torch.stack([DEPTHS, depths, DEPTHS])
    masks = torch.stack([tree_mask(parents) for parents in trees])[:, None]
    logits = model(nodes, cache=cache, mask=masks, positions=PREFIX + rows)
    for row, parents in enumerate(trees):
        for node in range(len(parents)):
            path = path_to(node, parents)
            alone = torch.cat([prefix[row], nodes[row, path]])[None]
            close(logits[row, node], model(alone)[0, -1])
    cache.truncate(PREFIX)
    shared = model(nodes, cache=cache, mask=tree_mask(PARENTS), positions=PREFIX + DEPTHS)
    close(shared[::2], logits[::2])


@pytest.mark.parametrize("leaves", [[6, 6, 6], [6, 3, 5]], ids=["one path", "one for each row"])
def test_keep_is_a_cache_built_from_the_path(leaves):
    model, prefix, nodes, cache = with_prefix()
    nodes_seen = {"mask": tree_mask(PARENTS), "positions": PREFIX + DEPTHS}
    model(nodes, cache=cache, **nodes_seen)
    paths = torch.tensor([path_to(leaf, PARENTS)[:3] for leaf in leaves])
    start = torch.arange(PREFIX).expand(BATCH, -1)
    kept = torch.cat([start, PREFIX + paths], dim=1)
    cache.keep(kept[0] if leaves[0] == leaves[1] else kept)
    assert cache.length == PREFIX + 3
    text, following = torch.cat([prefix, nodes.gather(1, paths)], dim=1), nodes[:, :2]
    close(model(following, cache=cache), model(torch.cat([text, following], dim=1))[:, -2:])


@pytest.mark.parametrize(
    "indices",
    [[0, 2, 3, 4, 6], [1, 2, 3, 4, 5], [0, 1, 2], [6], [], [[0, 1, 4], [0, 2, 3], [4, 5, 6]]],
)
def test_keep_where_places_overlap(indices):
    """Entry 3 may have to be read after its place is written."""
    cache = poisoned_cache(CONFIG)
    generator = torch.Generator().manual_seed(2)
    k, v = torch.randn(2, CONFIG.layers, BATCH, 2, 7, 4, generator=generator).double()
    for layer in range(CONFIG.layers):
        cache.append(layer, k[layer], v[layer])
    cache.advance(7)
    indices = torch.tensor(indices, dtype=torch.int64)
    cache.keep(indices)
    assert cache.length == indices.shape[-1]
    rows = indices.expand(BATCH, -1)
    nothing = torch.empty(BATCH, 2, 0, 4, dtype=torch.float64)
    for layer in range(CONFIG.layers):
        keys, values = cache.append(layer, nothing, nothing)
        for row in range(BATCH):
            assert torch.equal(keys[row], k[layer, row][:, rows[row]])
            assert torch.equal(values[row], v[layer, row][:, rows[row]])


def test_appended_entries_are_views_and_count_once_advanced():
    cache = KVCache(CONFIG, batch=BATCH, dtype=torch.float64)
    k = torch.ones(BATCH, 2, 5, 4, dtype=torch.float64)
    keys, _ = cache.append(1, k, k)
    assert keys.data_ptr() == cache.append(1, k, k)[0].data_ptr()
    assert (cache.length, cache.max_length) == (0, CONFIG.max_length)
    cache.advance(5)
    assert cache.length == 5
    assert cache.append(1, k, k)[0].shape == (BATCH, 2, 10, 4)


def failing_in(layer):
    calls = []

    def attention(*args, **kwargs):
        calls.append(args)
        if len(calls) == layer + 1:
            raise RuntimeError("no memory left")
        return torch_attention(*args, **kwargs)

    return attention


@pytest.mark.parametrize("part", ["second layer", "head", "no room"])
def test_a_pass_that_fails_leaves_the_cache_as_it_was(part):
    model, tokens = model_of(CONFIG), tokens_of(CONFIG)
    cache = poisoned_cache(CONFIG, max_length=8)
    model(tokens[:, :5], cache=cache)
    if part == "no room":
        with pytest.raises(ValueError, match="cache: expected at most 3 more entries, got 4"):
            model(tokens[:, 5:9].flip(1), cache=cache)
    else:
        failing = model_of(CONFIG, failing_in(1 if part == "second layer" else 9))
        if part == "head":
            failing.lm_head = torch.nn.Linear(3, 5, dtype=torch.float64)
        with pytest.raises(RuntimeError, match=r"no memory left|cannot be multiplied"):
            failing(tokens[:, 5:8].flip(1), cache=cache)
    assert cache.length == 5
    close(model(tokens[:, 5:8], cache=cache), model(tokens[:, :8])[:, 5:])
