"""The N × N attention, by hand and against PyTorch's with an explicit mask."""

import math

import pytest
import torch
from torch.nn import functional as F

from companion.flash.naive import naive_attention

SHAPES = [  # B, H, G, T, S, D
    (2, 3, 3, 5, 5, 7),
    (2, 6, 2, 7, 11, 5),
    (3, 5, 1, 11, 7, 3),
    (1, 2, 2, 1, 13, 1),
    (1, 4, 2, 9, 1, 3),
]
MASKS = [
    {"causal": False},
    {"causal": True},
    {"window": 3},
    {"window": 3, "causal": True},
    {"window": (4, 1)},
    {"window": (None, 2)},
    {"window": (2, -1)},
    {"window": (0, 5), "causal": True},
]


def inputs(shape, dtype=torch.float64, device="cpu"):
    b, h, g, t, s, d = shape
    generator = torch.Generator().manual_seed(1)
    sizes = [(b, h, t, d), (b, g, s, d), (b, g, s, d)]
    return [
        torch.randn(size, dtype=torch.float64, generator=generator).to(device, dtype)
        for size in sizes
    ]


def explicit_mask(queries, keys, causal=False, window=None):
    """By the words of the convention, pair by pair."""
    mask = torch.zeros(queries, keys, dtype=torch.bool)
    for i in range(queries):
        for j in range(keys):
            ahead = j - (i + keys - queries)  # how far the key lies after the query
            seen = not (causal and ahead > 0)
            if isinstance(window, int):
                seen &= abs(ahead) < window
            elif window is not None:
                left, right = (math.inf if side in (None, -1) else side for side in window)
                seen &= -left <= ahead <= right
            mask[i, j] = seen
    return mask


def pytorchs(q, k, v, scale=None, **mask):
    """SDPA; a query that sees no key, where it gives NaN or worse, is made 0."""
    seen_TS = explicit_mask(q.shape[2], k.shape[2], **mask).to(q.device)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_TS, scale=scale, enable_gqa=True)
    return torch.where(seen_TS.any(1)[:, None], out, 0.0)


def test_by_hand():
    """Scores 0 and ln 3 weigh 1 : 3; the first query sees one key only."""
    q = torch.tensor([[1.0], [1.0]])[None, None]
    k = torch.tensor([[0.0], [math.log(3)]])[None, None]
    v = torch.tensor([[8.0], [4.0]])[None, None]
    assert naive_attention(q, k, v).flatten().tolist() == pytest.approx([5, 5])
    assert naive_attention(q, k, v, causal=True).flatten().tolist() == pytest.approx([8, 5])
    assert naive_attention(q, k, v, scale=0.0).flatten().tolist() == pytest.approx([6, 6])


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_pytorchs(shape, mask, device):
    q, k, v = inputs(shape, device=device)
    torch.testing.assert_close(naive_attention(q, k, v, **mask), pytorchs(q, k, v, **mask))


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 2, 5, 7, 3), (1, 3, 1, 8, 5, 4)], ids=str)
def test_gradients_are_pytorchs_and_never_nan(shape, mask):
    tensors = [x.requires_grad_() for x in inputs(shape)]
    weights = torch.randn(shape[0], shape[1], shape[3], shape[5], dtype=torch.float64)
    got = torch.autograd.grad((naive_attention(*tensors, **mask) * weights).sum(), tensors)
    seen_TS = explicit_mask(shape[3], shape[4], **mask)
    rows = seen_TS.any(1)  # the oracle runs on the rows that see a key
    q, k, v = tensors
    out = F.scaled_dot_product_attention(
        q[:, :, rows], k, v, attn_mask=seen_TS[rows], enable_gqa=True
    )
    expected = torch.autograd.grad((out * weights[:, :, rows]).sum(), tensors)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)


def test_scale_multiplies_the_scores():
    q, k, v = inputs((2, 3, 1, 5, 7, 11))
    for scale in (0.3, -1.0, 0.0):
        torch.testing.assert_close(
            naive_attention(q, k, v, scale=scale), pytorchs(q, k, v, scale=scale)
        )
    torch.testing.assert_close(
        naive_attention(q, k, v), naive_attention(q, k, v, scale=1 / math.sqrt(11))
    )


def test_a_row_that_sees_nothing_is_zero():
    """5 queries of 3 keys: the first two stand before every key."""
    q, k, v = (x.requires_grad_() for x in inputs((1, 2, 2, 5, 3, 4)))
    out = naive_attention(q, k, v, causal=True)
    assert not out[:, :, :2].any()
    assert out[:, :, 2:].all()
    torch.testing.assert_close(out[:, :, 2], v[:, :, 0])
    out.sum().backward()
    assert not q.grad[:, :, :2].any()
    for x in (q, k, v):
        assert x.grad.isfinite().all()


def test_query_heads_of_a_group_stand_together():
    """With 4 query and 2 key heads, heads 0 and 1 read key head 0."""
    v = torch.tensor([10.0, 20.0])[None, :, None, None].expand(1, 2, 3, 1)
    q, k = torch.zeros(1, 4, 5, 1), torch.zeros(1, 2, 3, 1)
    assert naive_attention(q, k, v)[0, :, 0, 0].tolist() == pytest.approx([10, 10, 20, 20])


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-6), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)]
)
def test_dtypes(dtype, atol, device):
    q, k, v = inputs((2, 4, 2, 5, 7, 16), dtype, device)
    out = naive_attention(q, k, v, causal=True)
    assert out.dtype == dtype
    expected = pytorchs(q.double(), k.double(), v.double(), causal=True)
    torch.testing.assert_close(out.double(), expected, atol=atol, rtol=0)


def test_empty_batch_and_strides():
    q, k, v = inputs((2, 4, 2, 5, 7, 3))
    assert naive_attention(q[:0], k[:0], v[:0]).shape == (0, 4, 5, 3)
    folded = [x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) for x in (q, k, v)]
    assert folded[0].stride() != q.stride()
    torch.testing.assert_close(naive_attention(*folded), naive_attention(q, k, v))
