"""What is refused, and in which words."""

import math

import numpy as np
import pytest
import torch

from companion.flash import (
    flash_attention,
    flash_attention_varlen,
    flash_decode,
    merge_partials,
    naive_attention,
)


def qkv(q=(2, 6, 5, 16), k=(2, 3, 7, 16), v=None, dtype=torch.float32):
    return [torch.zeros(shape, dtype=dtype) for shape in (q, k, v or k)]


@pytest.mark.parametrize("attend", [flash_attention, naive_attention])
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"q": (6, 5, 16)}, r"q: expected 4 dimensions \(B H T D\), got 3: \(6, 5, 16\)"),
        ({"k": (3, 7, 16)}, r"k: expected 4 dimensions \(B G S D\), got 3: \(3, 7, 16\)"),
        ({"k": (1, 3, 7, 16)}, "k: expected batch size 2, as in q, got 1"),
        ({"k": (2, 3, 7, 17)}, "k: expected head width 16, as in q, got 17"),
        ({"v": (2, 3, 7, 24)}, r"v: expected the shape of k, \(2, 3, 7, 16\), got \(2, 3, 7, 24\)"),
        ({"v": (2, 3, 8, 16)}, r"v: expected the shape of k, \(2, 3, 7, 16\), got \(2, 3, 8, 16\)"),
        ({"k": (2, 4, 7, 16)}, "key heads must divide query heads, got 4 key heads for 6 query"),
        ({"k": (2, 12, 7, 16)}, "key heads must divide query heads, got 12 key heads for 6 query"),
        ({"k": (2, 0, 7, 16)}, "key heads must divide query heads, got 0 key heads for 6 query"),
        ({"q": (2, 0, 5, 16)}, "key heads must divide query heads, got 3 key heads for 0 query"),
        ({"q": (2, 6, 0, 16)}, "the number of queries must be at least 1, got 0"),
        ({"k": (2, 3, 0, 16)}, "the number of keys must be at least 1, got 0"),
        ({"q": (2, 6, 5, 0), "k": (2, 3, 7, 0)}, "head width must be at least 1, got 0"),
    ],
)
def test_shapes(attend, shapes, message):
    with pytest.raises(ValueError, match=message):
        attend(*qkv(**shapes))


@pytest.mark.parametrize("width", [1, 15, 257])
def test_head_width(width):
    q, k, v = qkv((1, 1, 2, width), (1, 1, 2, width))
    with pytest.raises(ValueError, match=rf"head width must be in \[16, 256\], got {width}"):
        flash_attention(q, k, v)
    with pytest.raises(ValueError, match=rf"head width must be in \[16, 256\], got {width}"):
        flash_decode(q[:, :, 0], k, v)
    offsets = torch.tensor([0, 2])
    with pytest.raises(ValueError, match=rf"head width must be in \[16, 256\], got {width}"):
        flash_attention_varlen(
            *(x[0].transpose(0, 1) for x in (q, k, v)), q_offsets=offsets, k_offsets=offsets
        )
    assert naive_attention(q, k, v).shape == (1, 1, 2, width)


def test_types_and_devices():
    q, k, v = qkv()
    with pytest.raises(TypeError, match="k: expected a tensor, got list"):
        flash_attention(q, k.tolist(), v)
    with pytest.raises(TypeError, match="q: expected a tensor, got ndarray"):
        flash_attention(np.zeros((2, 6, 5, 16)), k, v)
    with pytest.raises(TypeError, match=r"v: expected torch\.float32, as in q, got torch\.float16"):
        flash_attention(q, k, v.half())
    with pytest.raises(TypeError, match=r"q: expected float16, .* or float64, got torch\.int64"):
        flash_attention(*qkv(dtype=torch.int64))
    with pytest.raises(TypeError, match=r"q: expected float16, .* got torch\.complex64"):
        flash_attention(*qkv(dtype=torch.complex64))
    with pytest.raises(ValueError, match="k: expected device cpu, as in q, got meta"):
        flash_attention(q, k.to("meta"), v)


@pytest.mark.parametrize("attend", [flash_attention, naive_attention])
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scale": math.nan}, ValueError, "scale: expected a finite number, got nan"),
        ({"scale": math.inf}, ValueError, "scale: expected a finite number, got inf"),
        ({"scale": "1"}, TypeError, "scale: expected a number, got str"),
        ({"scale": True}, TypeError, "scale: expected a number, got bool"),
        ({"scale": torch.tensor(1.0)}, TypeError, "scale: expected a number, got Tensor"),
        ({"causal": 1}, TypeError, "causal: expected True or False, got 1"),
        ({"window": 0}, ValueError, "window must be at least 1 key, got 0"),
        ({"window": (1, 2, 3)}, TypeError, "window must be None, an int or a pair"),
    ],
)
def test_settings(attend, settings, error, message):
    with pytest.raises(error, match=message):
        attend(*qkv(), **settings)


@pytest.mark.parametrize("name", ["return_lse", "deterministic"])
def test_switches(name):
    with pytest.raises(TypeError, match=f"{name}: expected True or False, got None"):
        flash_attention(*qkv(), **{name: None})


def test_integers_are_good_scales():
    q, k, v = (torch.randn(1, 1, 3, 16) for _ in range(3))
    assert torch.equal(flash_attention(q, k, v, scale=1), flash_attention(q, k, v, scale=1.0))
    negative = flash_attention(q, k, v, scale=-0.5)
    torch.testing.assert_close(negative, flash_attention(-q, k, v, scale=0.5))


@pytest.mark.parametrize(
    ("offsets", "error", "message"),
    [
        ([1, 5], ValueError, r"q_offsets: expected to run from 0 to 5 tokens, got \[1, 5\]"),
        ([0, 4], ValueError, r"q_offsets: expected to run from 0 to 5 tokens, got \[0, 4\]"),
        ([], ValueError, r"q_offsets: expected to run from 0 to 5 tokens, got \[\]"),
        ([0, 6, 4, 5], ValueError, "q_offsets: expected no step down, got 6 before 4"),
        ([0.0, 5.0], TypeError, r"q_offsets: expected int32 or int64, got torch\.float32"),
        ([[0, 5]], ValueError, r"q_offsets: expected one dimension, got shape \(1, 2\)"),
    ],
)
def test_offsets(offsets, error, message):
    q, k, v = qkv((5, 6, 16), (5, 3, 16))
    dtype = None if offsets else torch.int64
    offsets = torch.tensor(offsets, dtype=dtype)
    right = torch.tensor([0] * (offsets.numel() - 1) + [5])[: offsets.numel()]
    with pytest.raises(error, match=message):
        flash_attention_varlen(q, k, v, q_offsets=offsets, k_offsets=right)


def test_offsets_must_fit_each_other():
    q, k, v = qkv((5, 6, 16), (7, 3, 16))
    two, three = torch.tensor([0, 5]), torch.tensor([0, 2, 7])
    with pytest.raises(ValueError, match=r"k_offsets: expected shape \(2,\), got shape \(3,\)"):
        flash_attention_varlen(q, k, v, q_offsets=two, k_offsets=three)
    with pytest.raises(ValueError, match="k_offsets: expected to run from 0 to 7 tokens"):
        flash_attention_varlen(q, k, v, q_offsets=two, k_offsets=two)
    with pytest.raises(TypeError, match="q_offsets: expected a tensor of integers, got list"):
        flash_attention_varlen(q, k, v, q_offsets=[0, 5], k_offsets=two)
    with pytest.raises(ValueError, match=r"q: expected 3 dimensions \(N H D\), got 4"):
        flash_attention_varlen(q[None], k, v, q_offsets=two, k_offsets=two)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lengths": torch.tensor([1, 8])}, ValueError, r"lengths must be in \[0, 7\], got 8"),
        ({"lengths": torch.tensor([-1, 2])}, ValueError, r"lengths must be in \[0, 7\], got -1"),
        ({"lengths": torch.tensor([1])}, ValueError, r"lengths: expected shape \(2,\), got"),
        ({"lengths": torch.tensor([1.0, 2.0])}, TypeError, "lengths: expected int32 or int64"),
        ({"lengths": [1, 2]}, TypeError, "lengths: expected a tensor of integers, got list"),
        ({"splits": 0}, ValueError, "splits must be at least 1, got 0"),
        ({"splits": 2.0}, TypeError, r"splits: expected an integer, got 2\.0"),
        ({"scale": math.inf}, ValueError, "scale: expected a finite number, got inf"),
        ({"return_lse": 1}, TypeError, "return_lse: expected True or False, got 1"),
    ],
)
def test_decode_settings(settings, error, message):
    q, k, v = qkv((2, 6, 16), (2, 3, 7, 16))
    with pytest.raises(error, match=message):
        flash_decode(q, k, v, **settings)


def test_decode_takes_one_query_and_no_gradient():
    q, k, v = qkv((2, 6, 2, 16))
    with pytest.raises(ValueError, match="q: expected one query per sequence, got 2"):
        flash_decode(q, k, v)
    with pytest.raises(ValueError, match=r"q: expected 3 dimensions \(B H D\), got 2"):
        flash_decode(q[0, 0], k, v)
    with pytest.raises(RuntimeError, match="flash_decode computes no gradients"):
        flash_decode(q[:, :, 0], k.requires_grad_(), v)
    with torch.no_grad():
        assert flash_decode(q[:, :, 0], k, v).shape == (2, 6, 16)


@pytest.mark.parametrize(
    ("outs", "lses", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3), ValueError, r"lses: expected the shape of outs with"),
        (torch.zeros(2), torch.zeros(()), ValueError, "lses: expected the shape of outs without"),
        (torch.zeros(0, 3), torch.zeros(0), ValueError, "outs: expected at least one part"),
        ([], [], ValueError, "outs: expected at least one part, got none"),
        ([torch.zeros(1), torch.zeros(2)], [], ValueError, r"outs: expected parts of one shape"),
        ([1.0], [1.0], TypeError, "outs: expected tensors, got float"),
        ([torch.zeros(3), 1], [], TypeError, "outs: expected tensors, got int"),
        (
            torch.zeros(2, 3),
            [torch.zeros(()), None],
            TypeError,
            "lses: expected tensors, got NoneType",
        ),
        ("ab", [1.0], TypeError, "outs: expected a tensor or a sequence, got str"),
        (torch.zeros(2, 3).int(), torch.zeros(2), TypeError, "outs: expected floating-point"),
    ],
)
def test_partials(outs, lses, error, message):
    with pytest.raises(error, match=message):
        merge_partials(outs, lses)
