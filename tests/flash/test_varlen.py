"""flash_attention_varlen: each sequence of a pack as if it were alone."""

import math
from itertools import pairwise

import pytest
import torch

from companion.flash import attention_backend, flash_attention_varlen
from tests.flash.front_oracle import INTERPRETED, assert_exact, reference

# Lengths of the sequences: one, many, empty ones, no keys, no queries, more queries than keys.
PACKS = [
    ([5], [5]),
    ([3, 1, 113], [3, 1, 113]),
    ([1, 0, 7, 4], [9, 3, 0, 2]),
    ([0, 0], [0, 5]),
    ([33, 40], [70, 11]),
    ([], []),
]
MASKS = [{}, {"causal": True}, {"window": 3}, {"window": (2, 1)}, {"window": 4, "causal": True}]


def pack(q_lengths, k_lengths, *, h=4, g=2, d=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n, m = sum(q_lengths), sum(k_lengths)
    shapes = [(n, h, d), (m, g, d), (m, g, d), (n, h, d), (h, n)]
    drawn = [torch.randn(x, generator=generator, dtype=torch.float64).to(dtype) for x in shapes]
    return drawn, offsets(q_lengths), offsets(k_lengths)


def offsets(lengths, dtype=torch.int32):
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0)], dtype=dtype)


def alone(q, k, v, q_offsets, k_offsets, **mask):
    """Each sequence by itself in float64."""
    outs, lses = [q[:0].double()], [q.new_empty(q.shape[1], 0, dtype=torch.float64)]
    bounds = [pairwise(x.tolist()) for x in (q_offsets, k_offsets)]
    for (a, b), (c, e) in zip(*bounds, strict=True):
        x, y, z = q[a:b], k[c:e], v[c:e]
        if a == b or c == e:
            outs.append(torch.zeros_like(x, dtype=torch.float64))
            lses.append(torch.full_like(x[..., 0].T, -math.inf, dtype=torch.float64))
            continue
        out, lse = reference(*(x.transpose(0, 1)[None] for x in (x, y, z)), **mask)
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
    return torch.cat(outs), torch.cat(lses, dim=1)


def everything(run, q, k, v, w_out, w_lse):
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out, lse = run(*leaves)
    loss = (out * w_out).sum() + (lse * w_lse)[lse > -math.inf].sum()
    # A pack with no sequence, or with no keys, may be independent of all the leaves.
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else leaves
    grads = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
    return [x.detach() for x in (out, lse, *grads)]


@pytest.mark.parametrize("backend", ["tiled", "naive"])
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("lengths", PACKS, ids=str)
def test_each_sequence_alone(lengths, mask, backend):
    tensors, q_offsets, k_offsets = pack(*lengths)
    settings = {"q_offsets": q_offsets, "k_offsets": k_offsets, **mask}
    with attention_backend(backend):
        got = everything(
            lambda *x: flash_attention_varlen(*x, return_lse=True, **settings), *tensors
        )
    assert_exact(got, everything(lambda *x: alone(*x, **settings), *tensors))


@INTERPRETED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_kernels_give_the_same(dtype):
    tensors, q_offsets, k_offsets = pack([5, 0, 17, 3], [5, 2, 9, 0], dtype=dtype)
    settings = {"q_offsets": q_offsets, "k_offsets": k_offsets, "causal": True}
    with attention_backend("triton"):
        got = everything(
            lambda *x: flash_attention_varlen(*x, return_lse=True, **settings), *tensors
        )
    expected = everything(lambda *x: alone(*x, **settings), *tensors)
    tolerance = 16 * torch.finfo(dtype).eps
    for mine, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
@pytest.mark.parametrize("mask", [{}, {"causal": True}, {"window": 5}], ids=str)
def test_neighbours_do_not_leak(garbage, mask):
    tensors, q_offsets, k_offsets = pack([7, 9, 4], [5, 9, 6])
    settings = {"q_offsets": q_offsets, "k_offsets": k_offsets, "return_lse": True, **mask}
    run = lambda *x: flash_attention_varlen(*x, **settings)  # noqa: E731
    clean = everything(run, *tensors)
    q, k, v, w_out, w_lse = (x.clone() for x in tensors)
    for x in (q[:7], q[16:], k[:5], k[14:], v[:5], v[14:], w_out[:7], w_out[16:]):
        x.fill_(garbage)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out, lse = run(*leaves)
    dq, dk, dv = torch.autograd.grad((out, lse), leaves, (w_out, w_lse))
    middle = [out[7:16], lse[:, 7:16], dq[7:16], dk[5:14], dv[5:14]]
    expected = [clean[0][7:16], clean[1][:, 7:16], clean[2][7:16], clean[3][5:14], clean[4][5:14]]
    assert all(torch.equal(a, b) for a, b in zip(middle, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_offsets_of_either_width(dtype):
    tensors, *_ = pack([3, 4], [3, 4])
    both = dict.fromkeys(("q_offsets", "k_offsets"), offsets([3, 4], dtype))
    out = flash_attention_varlen(*tensors[:3], causal=True, **both)
    assert_exact([out], alone(*tensors[:3], **both, causal=True)[:1])


def test_strided_pack_and_low_precision():
    """q, k and v as slices of one projection, as models make them."""
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(12, 3, 4, 16, generator=generator).bfloat16()
    q, k, v = fused.unbind(1)
    both = dict.fromkeys(("q_offsets", "k_offsets"), offsets([5, 7]))
    out, lse = flash_attention_varlen(q, k, v, **both, causal=True, return_lse=True)
    expected = alone(q, k, v, **both, causal=True)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out.double(), expected[0], atol=0.02, rtol=0.02)
    torch.testing.assert_close(lse.double(), expected[1], atol=1e-4, rtol=1e-4)


def test_gradients_are_the_same_bits():
    tensors, q_offsets, k_offsets = pack([33, 40], [70, 11], dtype=torch.float32)
    settings = {"q_offsets": q_offsets, "k_offsets": k_offsets, "return_lse": True}
    run = lambda *x: flash_attention_varlen(*x, **settings)  # noqa: E731
    first, second = (everything(run, *tensors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_vmap_folds_into_the_heads():
    packs = [pack([3, 4], [5, 2], h=6, g=3, seed=i)[0][:3] for i in range(3)]
    _, q_offsets, k_offsets = pack([3, 4], [5, 2])
    settings = {"q_offsets": q_offsets, "k_offsets": k_offsets, "causal": True}

    def run(q, k, v):
        return flash_attention_varlen(q, k, v, return_lse=True, **settings)

    def loss(k, q, v):
        return run(q, k, v)[0].square().sum()

    qs, ks, vs = (torch.stack(xs) for xs in zip(*packs, strict=True))
    out, lse = torch.vmap(run)(qs, ks, vs)
    dk = torch.vmap(torch.func.grad(loss), (0, None, 0))(ks, qs[0], vs)
    for i in range(3):
        assert_exact([out[i], lse[i]], alone(qs[i], ks[i], vs[i], **settings))
        k = ks[i].clone().requires_grad_()
        alone(qs[0], k, vs[i], **settings)[0].square().sum().backward()
        assert_exact([dk[i]], [k.grad])


def test_offsets_cannot_be_mapped_over():
    (q, k, v, *_), q_offsets, k_offsets = pack([3, 4], [3, 4])
    with pytest.raises(ValueError, match="vmap: offsets must be the same for every call"):
        torch.vmap(lambda o: flash_attention_varlen(q, k, v, q_offsets=o, k_offsets=k_offsets))(
            torch.stack([q_offsets, q_offsets])
        )


def test_second_derivative_is_refused():
    (q, k, v, *_), q_offsets, k_offsets = pack([3, 4], [3, 4])
    q.requires_grad_()
    out = flash_attention_varlen(q, k, v, q_offsets=q_offsets, k_offsets=k_offsets)
    (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        dq.sum().backward()
