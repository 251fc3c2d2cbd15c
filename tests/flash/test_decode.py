"""flash_decode: one query against a cache, in parts."""

import math

import pytest
import torch
from torch.nn import functional as F

from companion.flash import attention_backend, flash_decode
from companion.flash.decode import _chosen_splits
from tests.flash.error_bounds import NAMES, assert_within, attention_bounds
from tests.flash.front_oracle import INTERPRETED, inputs, reference, seen_TS

SHAPES = [(1, 1, 1, 1, 16), (2, 6, 2, 113, 40), (3, 3, 3, 5, 59), (2, 5, 1, 257, 128)]
LENGTHS = {1: [1], 2: [100, 3], 3: [0, 5, 2]}


def cache(b, h, g, s, d, dtype=torch.float64, device="cpu"):
    q, k, v, *_ = inputs(b, h, g, 1, s, d, dtype=dtype, device=device)
    return q[:, :, 0], k, v


def exact(q, k, v, lengths):
    """Sequence by sequence, its valid keys only, in float64."""
    outs, lses = [], []
    for b, length in enumerate(lengths):
        keys, values = (
            x[b, :, :length].double().repeat_interleave(q.shape[1] // k.shape[1], dim=0)
            for x in (k, v)
        )
        scores = torch.einsum("hd,hsd->hs", q[b].double(), keys) / math.sqrt(q.shape[-1])
        outs.append(torch.einsum("hs,hsd->hd", scores.softmax(-1), values))
        lses.append(scores.logsumexp(-1))
    return torch.stack(outs), torch.stack(lses)


@pytest.mark.parametrize("splits", [None, 1, 2, 7, 1000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_sequence_alone(shape, splits, device):
    q, k, v = cache(*shape, device=device)
    for lengths in (LENGTHS[shape[0]], [shape[3]] * shape[0]):
        out, lse = flash_decode(
            q, k, v, lengths=torch.tensor(lengths), splits=splits, return_lse=True
        )
        torch.testing.assert_close((out, lse), exact(q, k, v, lengths), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(flash_decode(q, k, v, splits=splits), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_low_precision_errs_no_more_than_its_dtype_allows(dtype, splits, device):
    tensors = inputs(2, 6, 2, 1, 257, 64, dtype=dtype, device=device)
    q, k, v, *_ = tensors
    out, lse = flash_decode(q, k, v, splits=splits, return_lse=True)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    exact = reference(q, k, v)
    bounds = attention_bounds(*tensors, seen_TS=seen_TS(1, 257).to(device), scale=64**-0.5)
    for name, *three in zip(NAMES, (out, lse), exact, bounds, strict=False):
        assert_within(name, *three)


def test_is_pytorchs():
    q, k, v = cache(2, 6, 2, 71, 24, dtype=torch.float32)
    theirs = F.scaled_dot_product_attention(q.unsqueeze(2), k, v, enable_gqa=True)
    torch.testing.assert_close(flash_decode(q, k, v, splits=3), theirs.squeeze(2))


@INTERPRETED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_kernel_gives_the_same(dtype):
    q, k, v = cache(2, 6, 2, 37, 24, dtype=dtype)
    lengths = torch.tensor([37, 5], dtype=torch.int32)
    k[1, :, 5:] = math.nan
    v[1, :, 5:] = math.inf
    with attention_backend("triton"):
        out, lse = flash_decode(q, k, v, lengths=lengths, splits=3, return_lse=True)
    expected = exact(q, k, v, [37, 5])
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected[0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.double(), expected[1], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("backend", ["tiled", "naive"])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_what_lies_beyond_the_length_is_not_read(garbage, backend):
    q, k, v = cache(3, 4, 2, 19, 16, dtype=torch.float32)
    lengths = torch.tensor([19, 7, 0])
    expected = exact(q, k, v, lengths.tolist())[0].float()
    for b, length in enumerate(lengths):
        k[b, :, length:] = garbage
        v[b, :, length:] = garbage
    for splits in (1, 4, 19):
        with attention_backend(backend):
            out = flash_decode(q, k, v, lengths=lengths, splits=splits)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("splits", [1, 4])
def test_length_zero_is_zero_and_minus_infinity(splits):
    q, k, v = cache(2, 4, 2, 9, 16)
    out, lse = flash_decode(q, k, v, lengths=torch.tensor([0, 9]), splits=splits, return_lse=True)
    assert not out[0].any()
    assert (lse[0] == -math.inf).all()
    assert out[1].any()
    assert lse[1].isfinite().all()


def test_query_with_a_length_of_its_own():
    """(B, H, 1, D), as a model's projection leaves it."""
    q, k, v = cache(2, 4, 2, 9, 16)
    out, lse = flash_decode(q.unsqueeze(2), k, v, scale=0.5, return_lse=True)
    assert (out.shape, lse.shape) == ((2, 4, 1, 16), (2, 4, 1))
    flat, flat_lse = flash_decode(q, k, v, scale=0.5, return_lse=True)
    assert torch.equal(out.squeeze(2), flat)
    assert torch.equal(lse.squeeze(2), flat_lse)
    torch.testing.assert_close(flat, exact(2 * q, k, v, [9, 9])[0])  # 1/√16 is a quarter


def test_a_cache_that_is_a_view():
    """Room for more keys, tokens before heads: as caches are allocated."""
    q, k, v = cache(2, 4, 2, 9, 16)
    rooms = [torch.full((2, 20, 2, 16), math.nan, dtype=torch.float64) for _ in range(2)]
    for room, x in zip(rooms, (k, v), strict=True):
        room[:, :9] = x.transpose(1, 2)
    views = [room.transpose(1, 2) for room in rooms]
    got = flash_decode(q, *views, lengths=torch.tensor([9, 4]), splits=3)
    torch.testing.assert_close(got, exact(q, k, v, [9, 4])[0])


def test_empty_batch():
    q, k, v = cache(0, 4, 2, 9, 16)
    out, lse = flash_decode(q, k, v, lengths=torch.zeros(0, dtype=torch.int32), return_lse=True)
    assert (out.shape, lse.shape) == ((0, 4, 16), (0, 4))


def test_autocast():
    q, k, v = cache(2, 4, 2, 9, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = flash_decode(q, k, v, splits=2)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, flash_decode(*(x.bfloat16() for x in (q, k, v)), splits=2))


def test_number_of_parts_on_the_cpu():
    for keys, expected in ((1, 1), (2048, 1), (2049, 2), (10000, 5)):
        q, k = torch.empty(1, 1, 16), torch.empty(1, 1, keys, 16)
        assert _chosen_splits(None, q, k, "tiled") == expected
        assert _chosen_splits(None, q, k, "naive") == 1
    assert _chosen_splits(20000, q, k, "tiled") == 10000
