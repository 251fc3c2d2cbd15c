"""The grid of finite scalar quantisation, beside vector-quantize-pytorch's FSQ."""

import math

import pytest
import torch
from torch.testing import assert_close
from vector_quantize_pytorch import FSQ

from companion.vqvae.finite_scalar import FiniteScalarQuantizer

LEVELS = [8, 5, 5, 5], [3], [4, 7, 6], [5, 3, 16, 9]


def grid(dim, n=400, width=6.0):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(n, dim, generator=generator) * 2 - 1) * width


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_indices_of_the_peer(levels):
    z = grid(len(levels), n=3000).requires_grad_()
    z_2 = z.detach().clone().requires_grad_()
    ours, peer = FiniteScalarQuantizer(levels), FSQ(levels)
    z_q, indices, loss = ours(z)
    theirs, their_indices = peer(z_2[None])
    assert torch.equal(indices, their_indices[0].long())
    assert_close(z_q, theirs[0])
    assert (loss.item(), indices.dtype) == (0, torch.int64)
    assert ours.num_codes == peer.codebook_size
    everything = torch.arange(ours.num_codes)
    assert_close(ours.indices_to_codes(everything), peer.implicit_codebook)
    upstream = grid(len(levels), n=3000).flip(0)
    z_q.backward(upstream)
    theirs[0].backward(upstream)
    assert_close(z.grad, z_2.grad)


@pytest.mark.parametrize("levels", [*LEVELS, [2, 3], [2048, 2]])
def test_every_index_is_a_code_and_back(levels):
    quantizer = FiniteScalarQuantizer(levels)
    indices = torch.arange(math.prod(levels)).flip(0)
    codes = quantizer.indices_to_codes(indices)
    assert codes.min() >= -1
    assert codes.max() <= 1
    assert len(codes.unique(dim=0)) == quantizer.num_codes
    for dtype in (torch.float32, torch.float16):
        assert torch.equal(quantizer.codes_to_indices(codes.to(dtype)), indices)
    assert torch.equal(quantizer.codes(indices[:, None]), codes[:, None])


@pytest.mark.parametrize("levels", [*LEVELS, [2, 2], [2001, 2000]])
def test_the_middle_and_the_ends(levels):
    """0 is a code whatever L: artanh undoes the tanh, as tan would not. Beyond the ends is none."""
    quantizer = FiniteScalarQuantizer(levels)
    dim = len(levels)
    z = torch.tensor([0.0, 1e4, -1e4, torch.inf, -torch.inf])[:, None].expand(5, dim)
    z_q, indices, _ = quantizer(z)
    assert torch.equal(z_q[0], torch.zeros(dim))
    highest = [1.0 if level % 2 else 1 - 2 / level for level in levels]
    assert_close(z_q[1], torch.tensor(highest))
    assert_close(z_q[2], -torch.ones(dim))
    assert indices[1:].tolist() == [math.prod(levels) - 1, 0] * 2
    assert torch.equal(quantizer.indices_to_codes(indices), z_q)


def test_by_hand():
    """L = 4: h = 1.5015, o = ½, s = artanh(0.333): tanh(1 + s) · h − o is 0.80 of ±2, so 1 / 2."""
    quantizer = FiniteScalarQuantizer([4, 3, 5])
    z = torch.tensor([1.0, -0.6, 0.2], requires_grad=True)
    z_q, index, _ = quantizer(z)
    # −0.6: tanh · 1.001 = −0.54, so −1 of ±1. 0.2: tanh · 2.002 = 0.40, so 0 of ±2.
    assert z_q.tolist() == [0.5, -1.0, 0.0]
    assert index == (1 + 2) + 4 * (-1 + 1) + 12 * (0 + 2)
    z_q.sum().backward()
    h, half = torch.tensor([1.5015, 1.001, 2.002]), torch.tensor([2.0, 1.0, 2.0])
    shift = torch.tensor([math.atanh(0.5 / 1.5015), 0.0, 0.0])
    assert_close(z.grad, h * (1 - (z.detach() + shift).tanh() ** 2) / half)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_computed_in_float32(dtype):
    """A cast of the module changes nothing either: it holds integers."""
    quantizer, z = FiniteScalarQuantizer([9, 16, 15]), grid(3).to(dtype).requires_grad_()
    z_q, indices, loss = quantizer.to(dtype)(z)
    wide = quantizer(z.detach().float())
    assert (z_q.dtype, loss.dtype) == (dtype, torch.float32)
    assert torch.equal(indices, wide.indices)
    assert torch.equal(z_q, wide.z_q.to(dtype))
    z_q.sum().backward()
    assert z.grad.dtype == dtype


def test_what_is_no_code_gets_the_nearest():
    quantizer = FiniteScalarQuantizer([4, 3])  # −1, −½, 0, ½ and −1, 0, 1
    codes = torch.tensor([[0.2, 0.6], [1.0, 7.0], [-1e30, 1e30], [torch.nan, 0]])
    assert quantizer.codes_to_indices(codes).tolist() == [2 + 8, 3 + 8, 0 + 8, 2 + 4]
    assert quantizer(torch.full((3, 2), torch.nan)).indices.tolist() == [2 + 4] * 3
    assert quantizer(torch.zeros(0, 2)).indices.shape == (0,)
    assert quantizer.codes(torch.zeros(0, dtype=torch.int64)).shape == (0, 2)
    for bad, said in ([-1, 3], "-1 to 3"), ([5, 12], "5 to 12"):
        with pytest.raises(ValueError, match=rf"indices must be in \[0, 12\), got {said}"):
            quantizer.indices_to_codes(torch.tensor(bad))


def test_bad_levels():
    with pytest.raises(ValueError, match=r"levels\[1\] must be at least 2, got 1"):
        FiniteScalarQuantizer([3, 1])
    with pytest.raises(ValueError, match=r"levels: their product must be less than 2⁶³, got 922"):
        FiniteScalarQuantizer([2] * 63)
    assert FiniteScalarQuantizer([2] * 62).num_codes == 2**62
    with pytest.raises(ValueError, match="levels: expected at least one, got none"):
        FiniteScalarQuantizer(())
