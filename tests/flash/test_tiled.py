"""The tiled attention against the definition in float64, PyTorch's attention, and by hand."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from companion.flash import one_tile
from companion.flash.masks import Window, resolve_window, visible_TS
from companion.flash.naive import naive_attention
from companion.flash.one_tile import fits_one_tile
from companion.flash.tiled_function import tiled_attention
from companion.measure.peak_memory import peak_bytes

SHAPES = [  # B, H, G, T, S, D
    (2, 6, 3, 13, 17, 5),  # groups of two, fewer queries than keys
    (3, 4, 1, 17, 13, 3),  # one key head; with causal, the first four queries see nothing
    (1, 3, 3, 1, 11, 7),
    (5, 2, 2, 7, 7, 1),
]
MASKS = [(False, None), (True, None), (True, 3), (False, 4), (False, (2, 5)), (True, (-1, 2))]
TILES = [(None, None), (4, 3), (3, 16), (1, 1)]


def inputs(shape, dtype=torch.float64, seed=0):
    """q, k and v, that ask for gradients."""
    batch, heads, key_heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(heads, queries), (key_heads, keys), (key_heads, keys)]
    return [
        torch.randn(batch, *size, width, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for size in sizes
    ]


def like(x, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)


def definition(q, k, v, *, causal=False, window=None, scale=None):
    """The output and the log-sum-exp, and which rows see nothing; scores written out."""
    out = naive_attention(q, k, v, causal=causal, window=window, scale=scale)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    scores = factor * q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT
    visible = visible_TS(q.shape[2], k.shape[2], resolve_window(window, causal=causal))
    blind = ~visible.any(1)
    lse = scores.masked_fill(~visible | blind[:, None], -math.inf)
    # Blind rows are told apart so that the oracle's own gradient is not NaN.
    seen = lse.masked_fill(blind[:, None], 0).logsumexp(-1)
    return out, torch.where(blind, -math.inf, seen), blind


def gradients(results, leaves, blind):
    """Of Σ out · a + Σ lse · b, the second over the rows that see something."""
    out, lse = results
    seen = torch.where(blind, 0.0, lse)
    loss = (out * like(out, 2)).sum() + (seen * like(lse, 3)).sum()
    return torch.autograd.grad(loss, leaves)


# Against the definition


@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize(("causal", "window"), MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_of_the_definition(shape, causal, window, tiles):
    leaves = inputs(shape)
    out, lse, blind = definition(*leaves, causal=causal, window=window)
    settings = {"causal": causal, "window": window, "return_lse": True}
    ours = tiled_attention(*leaves, **settings, query_tile=tiles[0], key_tile=tiles[1])
    torch.testing.assert_close(ours, (out, lse))
    expected = gradients((out, lse), leaves, blind)
    torch.testing.assert_close(gradients(ours, leaves, blind), expected)


@pytest.mark.parametrize("scores", [0, 80, 200])  # too few for any head here; a head; two, three
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, 3)])
@pytest.mark.parametrize("shape", [(2, 6, 3, 6, 6, 5), (5, 2, 2, 8, 9, 3)])
def test_heads_in_groups_are_those_of_one_group(monkeypatch, shape, causal, window, scores):
    leaves, settings = inputs(shape), {"causal": causal, "window": window, "return_lse": True}
    seen = torch.zeros(shape[3], dtype=torch.bool)
    expected = tiled_attention(*leaves, **settings)
    expected_gradients = gradients(expected, leaves, seen)
    monkeypatch.setattr(one_tile, "SCORES", scores)
    ours = tiled_attention(*leaves, **settings)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, leaves, seen), expected_gradients)


def test_what_fits_one_tile():
    q, k = torch.empty(9, 4, 256, 8), torch.empty(9, 2, 512, 8)  # 2¹⁸ scores a key head
    assert fits_one_tile(q, k, Window())
    assert not fits_one_tile(q, torch.empty(9, 2, 513, 8), Window())
    assert not fits_one_tile(q, k[:, :, :0], Window())  # an empty sequence of a pack
    # Half of the scores are hidden: worth tiles, but for a few queries or keys.
    assert not fits_one_tile(q, k, Window(right=0))
    assert not fits_one_tile(q, k, Window(left=510))
    assert fits_one_tile(q, k, Window(left=511, right=255))  # hides nothing
    assert fits_one_tile(q[:, :, :128], k, Window(left=9, right=0))
    short = torch.empty(9, 2, 100, 8)  # the first query is 156 before the first key
    assert fits_one_tile(q, short, Window(right=156))
    assert not fits_one_tile(q, short, Window(right=155))


def test_by_hand():
    """Scores ln 1, ln 2 and ln 5: weights 1/8, 2/8 and 5/8."""
    q, v = torch.ones(1, 1, 1, 1), torch.tensor([8.0, 80.0, 800.0])[None, None, :, None]
    k = torch.tensor([1.0, 2.0, 5.0]).log()[None, None, :, None]
    out, lse = tiled_attention(q, k, v, return_lse=True, key_tile=2)
    assert out.item() == pytest.approx(1 + 20 + 500)
    assert lse.item() == pytest.approx(math.log(8))


def test_gradients_by_hand():
    """Two keys with equal scores: ∂s = ± (v₁ − v₂) / 4, and the log-sum-exp adds its weights."""
    q, k = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 2, 1), 0.0)
    v = torch.tensor([7.0, 5.0])[None, None, :, None]
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out, lse = tiled_attention(*leaves, scale=2.0, return_lse=True, key_tile=1)
    dq, dk, dv = (x.flatten().tolist() for x in torch.autograd.grad(out, leaves, retain_graph=True))
    assert (dq, dk, dv) == ([0], [pytest.approx(3), pytest.approx(-3)], [0.5, 0.5])
    dq, dk, dv = (x.flatten().tolist() for x in torch.autograd.grad(lse, leaves))
    assert (dq, dk, dv) == ([0], [3, 3], [0, 0])  # scale · q · ½


@pytest.mark.parametrize("width", [40, 59, 64, 128])
@pytest.mark.parametrize(
    ("lengths", "causal"), [((1, 1), True), ((3, 113), False), ((257, 257), True), ((113, 1023), 0)]
)
def test_torchs_attention_in_float32(lengths, width, causal):
    """With the tiles that it chooses itself, at lengths that no tile divides."""
    leaves = inputs((1, 3, 3, *lengths, width), torch.float32)
    ours = tiled_attention(*leaves, causal=bool(causal))
    theirs = F.scaled_dot_product_attention(*leaves, is_causal=bool(causal))
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    grads = [torch.autograd.grad(x, leaves, like(x)) for x in (ours, theirs)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


def test_long_causal_window_in_groups():
    """T = S = 1023 in many tiles: skipped, partly seen and seen whole."""
    leaves = inputs((1, 6, 2, 1023, 1023, 16), torch.float32)
    visible = visible_TS(1023, 1023, resolve_window(300, causal=True))
    ours = tiled_attention(*leaves, causal=True, window=300)
    theirs = F.scaled_dot_product_attention(*leaves, attn_mask=visible, enable_gqa=True)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    grads = [torch.autograd.grad(x, leaves, like(x)) for x in (ours, theirs)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


def test_more_heads_than_one_tile_takes():
    leaves = inputs((3, 10, 5, 6, 7, 4))
    out, lse, blind = definition(*leaves)
    ours = tiled_attention(*leaves, return_lse=True)
    torch.testing.assert_close(ours, (out, lse))
    expected = gradients((out, lse), leaves, blind)
    torch.testing.assert_close(gradients(ours, leaves, blind), expected)


# Gradients


@pytest.mark.parametrize(("causal", "window"), [(True, None), (False, 2), (True, (1, 0))])
@pytest.mark.parametrize("lengths", [(3, 4), (5, 3)])
def test_gradcheck_of_output_and_log_sum_exp(lengths, causal, window):
    leaves = inputs((1, 4, 2, *lengths, 3))
    blind = definition(*leaves, causal=causal, window=window)[2]

    def call(q, k, v):
        tiles = {"query_tile": 2, "key_tile": 2}
        out, lse = tiled_attention(
            q, k, v, causal=causal, window=window, scale=0.7, return_lse=True, **tiles
        )
        return out, lse[..., ~blind]

    assert torch.autograd.gradcheck(call, leaves)


def test_only_one_of_the_two_results_is_used():
    leaves = inputs((1, 2, 2, 5, 5, 3))
    expected = definition(*leaves, causal=True)
    for i in range(2):
        ours = tiled_attention(*leaves, causal=True, return_lse=True)[i]
        theirs = expected[i]
        weight = like(ours)
        torch.testing.assert_close(
            torch.autograd.grad(ours, leaves, weight, allow_unused=True),
            torch.autograd.grad(theirs, leaves, weight, allow_unused=True, materialize_grads=True),
        )


def test_gradients_are_the_same_to_the_bit():
    leaves = inputs((2, 4, 2, 130, 150, 16), torch.float32)

    def grads():
        out, lse = tiled_attention(
            *leaves, causal=True, return_lse=True, query_tile=64, key_tile=48
        )
        return torch.autograd.grad((out.square().sum() + lse.sum()), leaves)

    first = grads()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, grads(), strict=True))


def test_no_second_derivative():
    leaves = inputs((1, 2, 2, 3, 3, 4))
    (dq,) = torch.autograd.grad(tiled_attention(*leaves).sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="attention has no second derivative here"):
        torch.autograd.grad(dq.sum(), leaves)


def test_under_torch_func():
    """`vmap` and `grad` of one against the whole batch by plain autograd, through SDPA."""
    leaves = inputs((3, 4, 4, 7, 7, 5))

    def loss(attention, q, k, v):
        return attention(q, k, v).square().sum()

    ours = partial(loss, partial(tiled_attention, query_tile=2, key_tile=3, causal=True))
    alone = [x[:, None] for x in leaves]
    got = torch.vmap(torch.func.grad(ours, argnums=(0, 1, 2)))(*alone)
    theirs = partial(F.scaled_dot_product_attention, is_causal=True)
    expected = torch.autograd.grad(loss(theirs, *leaves), leaves)
    for mine, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(mine[:, 0], exact)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward mode uses it
def test_no_forward_mode():
    leaves = inputs((1, 2, 2, 3, 3, 4))
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match="no forward-mode derivative"),
    ):
        tiled_attention(*(forward_ad.make_dual(x, like(x)) for x in leaves))


# Rows that see nothing, large scores, uninitialised memory


@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, (0, 3)), (False, (None, 1))])
def test_a_row_that_sees_nothing(causal, window):
    """Two keys, six queries: the first queries sit before every key."""
    leaves = inputs((2, 3, 3, 6, 2, 5), torch.float32)
    out, lse = tiled_attention(
        *leaves, causal=causal, window=window, return_lse=True, query_tile=3, key_tile=2
    )
    blind = 4 if causal else 3
    assert torch.equal(out[:, :, :blind], torch.zeros(2, 3, blind, 5))
    assert torch.equal(lse[:, :, :blind], torch.full((2, 3, blind), -math.inf))
    assert torch.isfinite(lse[:, :, blind:]).all()
    # 1/lse has the gradient −0 there, and lse² would have −∞: neither may reach q.
    for loss in (out.sum() + (1 / lse).sum(), lse.square().sum()):
        dq, dk, dv = torch.autograd.grad(loss, leaves, retain_graph=True)
        assert torch.equal(dq[:, :, :blind], torch.zeros(2, 3, blind, 5))
        assert all(torch.isfinite(x).all() for x in (dq, dk, dv))
        assert dq[:, :, blind:].abs().sum() > 0


@pytest.mark.parametrize("shift", [-3e4, 3e4])
def test_large_scores_neither_overflow_nor_vanish(shift):
    """Adding a constant to all scores changes the log-sum-exp by it, and nothing else."""
    leaves = inputs((1, 2, 2, 5, 7, 3))
    q, k = (F.pad(x, (0, 1), value=1.0) for x in leaves[:2])
    k[..., -1] = shift
    v = F.pad(leaves[2], (0, 1))
    tiles = {"query_tile": 2, "key_tile": 3}
    out, lse = tiled_attention(q, k, v, scale=1.0, causal=True, return_lse=True, **tiles)
    expected, expected_lse, _ = definition(*leaves, scale=1.0, causal=True)
    torch.testing.assert_close(out[..., :3], expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(lse - shift, expected_lse, atol=1e-9, rtol=1e-9)


def test_scores_that_fall_by_more_than_the_exponent_holds():
    """The first tile's maximum is larger by 400: what follows is 0, and nothing is NaN."""
    k = torch.tensor([200.0, -200.0])[None, None, :, None]
    v = torch.tensor([2.0, 3.0])[None, None, :, None]
    for order in ([0, 1], [1, 0]):
        out, lse = tiled_attention(
            torch.ones(1, 1, 1, 1), k[:, :, order], v[:, :, order], return_lse=True, key_tile=1
        )
        assert (out.item(), lse.item()) == (2, pytest.approx(200))


def test_a_hidden_key_may_be_infinite():
    q, k, v = (x.detach() for x in inputs((1, 2, 2, 4, 4, 3), torch.float32))
    k[:, :, -1] = math.inf
    q.abs_()
    out, lse = tiled_attention(q, k, v, causal=True, return_lse=True)
    cut = tiled_attention(*(x[:, :, :3] for x in (q, k, v)), causal=True, return_lse=True)
    torch.testing.assert_close((out[:, :, :3], lse[:, :, :3]), cut)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_nothing_is_read_before_it_is_written(dtype):
    """New memory is full of NaN here."""
    leaves = inputs((2, 6, 3, 17, 13, 5), dtype)
    settings = {"causal": True, "window": 7, "return_lse": True, "query_tile": 4, "key_tile": 3}
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        out, lse = tiled_attention(*leaves, **settings)
        grads = torch.autograd.grad(out.sum() + lse[:, :, 4:].sum(), leaves)
    finally:
        torch.use_deterministic_algorithms(before)
    assert not any(x.isnan().any() for x in (out, lse, *grads))


# Precisions and strides


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "key_tile"), [((2, 6, 2, 113, 113, 40), 48), ((1, 4, 4, 33, 257, 64), 2)]
)
def test_error_in_low_precision_is_at_most_twice_the_definitions(shape, key_tile, dtype):
    """The rule of the FlashAttention repository; three times for gradients.

    Tiles of two keys: a sum over 129 tiles shows whether it is kept in low precision.
    """
    leaves = inputs(shape, dtype)
    exact_leaves = [x.detach().double().requires_grad_() for x in leaves]
    exact, exact_lse, _ = definition(*exact_leaves, causal=True)
    tiles = {"query_tile": 32, "key_tile": key_tile}
    ours, lse = tiled_attention(*leaves, causal=True, return_lse=True, **tiles)
    plain = naive_attention(*leaves, causal=True)
    assert (ours.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(lse.double(), exact_lse, atol=1e-5, rtol=1e-5)
    assert error(ours, exact) <= 2 * error(plain, exact)
    weight = like(plain)
    results = zip(
        torch.autograd.grad(ours, leaves, weight),
        torch.autograd.grad(plain, leaves, weight),
        torch.autograd.grad(exact, exact_leaves, weight.double()),
        strict=True,
    )
    for grad, plain_grad, exact_grad in results:
        assert grad.dtype == dtype
        assert error(grad, exact_grad) <= 3 * error(plain_grad, exact_grad)


def error(x, exact):
    return (x.double() - exact).abs().max().item()


def layouts(x):
    """The same numbers with other strides: tokens before heads, the width first, every second."""
    yield x.transpose(1, 2).contiguous().transpose(1, 2)
    yield x.mT.contiguous().mT
    doubled = torch.full((*x.shape[:-1], 2 * x.shape[-1]), math.nan, dtype=x.dtype)
    doubled[..., ::2] = x
    yield doubled[..., ::2]


@pytest.mark.parametrize("tiles", [(None, None), (4, 5)])
def test_any_strides(tiles):
    leaves = inputs((2, 6, 3, 13, 11, 5))
    settings = {"window": (3, 2), "query_tile": tiles[0], "key_tile": tiles[1]}
    expected = naive_attention(*leaves, window=(3, 2))
    weight = like(expected)
    grads = torch.autograd.grad(expected, leaves, weight)
    for strided in zip(*(layouts(x.detach()) for x in (*leaves, weight)), strict=True):
        fresh = [x.requires_grad_() for x in strided[:3]]
        out = tiled_attention(*fresh, **settings)
        assert out.is_contiguous()
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(torch.autograd.grad(out, fresh, strided[3]), grads)


def test_one_gradient_for_all_entries():
    """`sum` hands back a gradient whose strides are 0."""
    leaves = inputs((2, 4, 2, 7, 9, 5))
    ours, theirs = tiled_attention(*leaves), naive_attention(*leaves)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(theirs.sum(), leaves)
    )


def test_inputs_are_left_as_they_were():
    leaves = inputs((2, 4, 2, 7, 9, 5))
    before = [x.detach().clone() for x in leaves]
    out, lse = tiled_attention(*leaves, causal=True, return_lse=True)
    kept = out.detach().clone(), lse.detach().clone()
    torch.autograd.grad((out.sum(), lse.sum()), leaves)
    assert all(torch.equal(a, b) for a, b in zip(leaves, before, strict=True))
    assert torch.equal(out, kept[0])
    assert torch.equal(lse, kept[1])


def test_autocast_casts_the_inputs_and_not_the_sums():
    leaves = inputs((1, 2, 2, 40, 40, 16), torch.float32)
    rounded = [x.detach().bfloat16() for x in leaves]
    alone, lse = tiled_attention(*rounded, return_lse=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse_cast = tiled_attention(*leaves, return_lse=True)
        grads = torch.autograd.grad(out, leaves, like(out))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, alone)
    assert torch.equal(lse, lse_cast)
    assert {x.dtype for x in grads} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wide = tiled_attention(*(x.double() for x in leaves))
    torch.testing.assert_close(wide, naive_attention(*(x.double() for x in leaves)))


def test_gradients_inside_autocast_are_summed_in_float32():
    leaves = inputs((1, 2, 2, 40, 40, 16), torch.float32)
    out = tiled_attention(*leaves, causal=True)
    weight = like(out)
    expected = torch.autograd.grad(out, leaves, weight, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grads = torch.autograd.grad(out, leaves, weight)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))


def test_an_empty_batch():
    leaves = inputs((0, 4, 2, 7, 9, 5), torch.float32)
    out, lse = tiled_attention(*leaves, return_lse=True)
    assert (out.shape, lse.shape) == ((0, 4, 7, 5), (0, 4, 7))
    assert [x.shape for x in torch.autograd.grad(out.sum(), leaves)] == [x.shape for x in leaves]


# Memory


def training_bytes(attention, length, width, heads=1):
    leaves = inputs((1, heads, heads, length, length, width), torch.float32)
    weight = like(leaves[0])

    def step():
        out = attention(*leaves, causal=True)
        torch.autograd.grad(out, leaves, weight)

    return peak_bytes(step)


def test_training_at_4096_takes_an_eighth_of_the_definitions_memory_at_most():
    naive = training_bytes(naive_attention, 4096, 16)
    assert naive > 3 * 4 * 4096**2  # it does hold three matrices of T × S numbers
    assert training_bytes(tiled_attention, 4096, 16) <= naive / 8


def test_memory_grows_with_the_length_not_with_its_square():
    peaks = [training_bytes(tiled_attention, n, 16) for n in (2048, 4096, 8192, 16384)]
    steps = [after - before for before, after in pairwise(peaks)]
    assert steps[1] == 2 * steps[0]
    assert steps[2] == 4 * steps[0]
    # out, ∂q, ∂k and ∂v of 16 numbers a row, and a few single numbers a row.
    assert steps[0] <= 2048 * 4 * (4 * 16 + 8)


# Arguments


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"query_tile": 0}, ValueError, "query_tile must be at least 1, got 0"),
        ({"key_tile": -3}, ValueError, "key_tile must be at least 1, got -3"),
        ({"key_tile": 2.0}, TypeError, r"key_tile: expected an integer, got 2\.0"),
        ({"query_tile": True}, TypeError, "query_tile: expected an integer, got True"),
        ({"causal": 1}, TypeError, "causal: expected True or False, got 1"),
        ({"scale": math.nan}, ValueError, "scale: expected a finite number, got nan"),
    ],
)
def test_impossible_settings(settings, kind, message):
    with pytest.raises(kind, match=message):
        tiled_attention(*inputs((1, 2, 2, 3, 3, 4)), **settings)


def test_impossible_shapes():
    q, k, v = inputs((1, 3, 2, 4, 4, 5))
    with pytest.raises(ValueError, match="2 key heads for 3 query heads"):
        tiled_attention(q, k, v)
