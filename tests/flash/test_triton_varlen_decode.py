"""The kernels on packed sequences, and on one token against a cache."""

import math

import pytest
import torch

from companion.flash import merge_partials
from tests.flash.triton_cases import Problem, assert_right, strided

pytest.importorskip("triton")

from companion.flash.triton import launch as triton_attention
from companion.flash.triton.launch import (
    triton_decode,
    triton_merge,
    triton_varlen_backward,
    triton_varlen_forward,
)

INTERPRETED = pytest.mark.skipif(
    not triton_attention.is_interpreted(), reason="the kernels are compiled for a GPU here"
)
on_targets = pytest.mark.parametrize(
    ("device", "dtype"),
    [
        pytest.param("cpu", torch.float32, marks=INTERPRETED),
        pytest.param("cuda", torch.float32, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.float16, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.bfloat16, marks=pytest.mark.gpu),
    ],
)

# Queries and keys of each sequence; one has no query, one no key, one fewer keys than queries.
PACK = [(3, 3), (0, 5), (41, 70), (2, 0), (19, 7)]


def packed(problem, pairs, dtype, device):
    """One problem per pair, and the same tensors end to end, as "N H D"."""
    parts = [problem._replace(T=t, S=s) for t, s in pairs]
    inputs = [part.inputs(dtype, device, seed=i) for i, part in enumerate(parts)]
    tensors = [torch.cat([x[n][0] for x in inputs], dim=1).transpose(0, 1) for n in range(4)]
    grad_lse = torch.cat([x[4][0] for x in inputs], dim=1)
    offsets = [torch.tensor([0, *n], device=device).cumsum(0) for n in zip(*pairs, strict=True)]
    return parts, inputs, tensors, grad_lse, offsets


def run(problem, tensors, grad_lse, offsets, pairs):
    q, k, v, grad_out = tensors
    setting = {
        "q_offsets": offsets[0].int(),
        "k_offsets": offsets[1].int(),
        "longest_q": max(t for t, _ in pairs),
        "longest_k": max(s for _, s in pairs),
        "window": problem.resolved,
        "scale": problem.scale,
    }
    out, lse = triton_varlen_forward(q, k, v, **setting)
    gradients = triton_varlen_backward(grad_out, grad_lse, q, k, v, out, lse, **setting)
    return [out, lse, *gradients]


def check_each(parts, inputs, found, offsets):
    """What one call gave for the pack is the attention of each sequence alone."""
    for i, (part, given) in enumerate(zip(parts, inputs, strict=True)):
        rows, keys = (slice(int(o[i]), int(o[i + 1])) for o in offsets)
        out, lse, dq = found[0][rows], found[1][:, rows], found[2][rows]
        if part.T == 0 or part.S == 0:
            assert not any(x.any() for x in (out, dq, found[3][keys], found[4][keys]))
            assert (lse == -math.inf).all()
            continue
        mine = [x.transpose(0, 1)[None] for x in (out, dq, found[3][keys], found[4][keys])]
        mine.insert(1, lse[None])
        assert_right(part, mine, given)


@on_targets
@pytest.mark.parametrize("rules", [{}, {"causal": True, "window": 30}], ids=str)
def test_each_packed_sequence_is_attention_alone(rules, device, dtype):
    problem = Problem(H=2, G=1, D=24, **rules)
    parts, inputs, tensors, grad_lse, offsets = packed(problem, PACK, dtype, device)
    found = run(problem, tensors, grad_lse, offsets, PACK)
    assert [x.shape for x in found[:2]] == [(65, 2, 24), (2, 65)]
    check_each(parts, inputs, found, offsets)


@on_targets
def test_nothing_leaks_between_packed_sequences(device, dtype):
    problem, pairs = Problem(D=24, causal=True), [(9, 20), (5, 13), (17, 17)]
    _, _, tensors, grad_lse, offsets = packed(problem, pairs, dtype, device)
    clean = run(problem, tensors, grad_lse, offsets, pairs)
    middle = [slice(int(o[1]), int(o[2])) for o in offsets]
    for x, rows in zip(tensors, (middle[0], middle[1], middle[1], middle[0]), strict=True):
        x[rows] = math.nan
    spoilt = run(problem, tensors, grad_lse, offsets, pairs)
    for a, b, rows in zip(clean, spoilt, [middle[0]] * 3 + [middle[1]] * 2, strict=True):
        a, b = (x.transpose(0, 1) if x.ndim == 2 else x for x in (a, b))
        keep = torch.ones(len(a), dtype=torch.bool)
        keep[rows] = False
        assert torch.equal(a[keep], b[keep])


@on_targets
def test_packed_tensors_of_any_strides(device, dtype):
    problem, pairs = Problem(H=2, G=2, D=24), [(9, 20), (5, 13)]
    parts, inputs, tensors, grad_lse, offsets = packed(problem, pairs, dtype, device)
    tensors = [strided(x[None])[0] for x in tensors]
    grad_lse = strided(grad_lse[None, :, :, None])[0, :, :, 0]
    check_each(parts, inputs, run(problem, tensors, grad_lse, offsets, pairs), offsets)


# Decoding


def decoded(q, k, v, lengths, splits, scale):
    """The parts, merged here by their definition, in float64."""
    outs, lses = triton_decode(q, k, v, lengths, splits=splits, scale=scale)
    assert outs.shape == (splits, *q.shape)
    assert outs.dtype == lses.dtype == torch.float32
    lse = lses.double().logsumexp(0)
    shares = (lses.double() - lse).exp().nan_to_num()
    return (shares[..., None] * outs.double()).sum(0), lse


@on_targets
@pytest.mark.parametrize(
    ("heads", "key_heads", "splits"), [(2, 2, 1), (6, 2, 3), (20, 1, 1), (3, 1, 7)]
)
def test_decoding_is_attention_over_the_valid_keys(heads, key_heads, splits, device, dtype):
    problem = Problem(B=3, H=heads, G=key_heads, T=1, S=77, D=40)
    q, k, v, *gradients = problem.inputs(dtype, device)
    lengths = torch.tensor([77, 0, 33], device=device)
    k[1], v[1], k[2, :, 33:], v[2, :, 33:] = [math.nan] * 4
    out, lse = decoded(q[:, :, 0], strided(k), v, lengths, splits, problem.scale)
    assert not out[1].any()
    assert (lse[1] == -math.inf).all()
    for b, length in ((0, 77), (2, 33)):
        one = slice(b, b + 1)
        given = [q[one], k[one, :, :length], v[one, :, :length], *(x[one] for x in gradients)]
        part = problem._replace(B=1, S=length)
        assert_right(part, [out[one, :, None], lse[one, :, None]], given)


@on_targets
def test_decoding_without_lengths_reads_the_whole_cache(device, dtype):
    q, k, v, *_ = Problem(B=2, H=2, G=1, T=1, S=35, D=16).inputs(dtype, device)
    full = torch.tensor([35, 35], device=device)
    for a, b in zip(*(decoded(q[:, :, 0], k, v, n, 2, 0.3) for n in (None, full)), strict=True):
        assert torch.equal(a, b)


@on_targets
@pytest.mark.parametrize("parts", [1, 3, 16, 37])
def test_parts_are_merged_in_one_launch(device, dtype, parts):
    """As by ``merge_partials`` in float64; a part that saw nothing is not read, be it NaN."""
    generator = torch.Generator().manual_seed(parts)
    outs = torch.randn(parts, 2, 3, 40, generator=generator)
    lses = 20 * torch.randn(parts, 2, 3, generator=generator)
    lses[0, 0, 0] = lses[:, 1, 2] = -math.inf
    outs[lses == -math.inf] = math.nan
    expected, expected_lse = merge_partials(outs.double(), lses.double())
    out, lse = triton_merge(outs.to(device), lses.to(device), dtype)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    assert out[1, 2].eq(0).all()
    assert lse[1, 2] == -math.inf
    # Weighted means of numbers below 5, rounded once to the dtype; exp of differences up to 100.
    bound = 5 * (torch.finfo(dtype).eps + 100 * torch.finfo(torch.float32).eps)
    torch.testing.assert_close(out.cpu().double(), expected, atol=bound, rtol=0)
    torch.testing.assert_close(lse.cpu().double(), expected_lse, atol=1e-5, rtol=1e-6)
