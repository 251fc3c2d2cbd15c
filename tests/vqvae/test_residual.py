"""Levels of codes: one gradient for all, a loss of each level's own, vector-quantize-pytorch."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from vector_quantize_pytorch import ResidualVQ

from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.finite_scalar import FiniteScalarQuantizer
from companion.vqvae.gradients import rotate_through
from companion.vqvae.quantizer import VectorQuantizer
from companion.vqvae.residual import ResidualQuantizer

D, SIZES = 3, (7, 5, 11)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def levels(kind=VectorQuantizer, count=3, **options):
    """Each level a third of the one before, as residuals are."""
    made = [kind(size, D, **options) for size in SIZES[:count]]
    for number, quantizer in enumerate(made):
        codes = draw(quantizer.num_codes, D, seed=1 + number) / 3**number
        quantizer.codebook.data.copy_(codes)
        if kind is EMAVectorQuantizer:
            quantizer.embed_avg.copy_(codes)
    return made


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["gradient", "ema", "rotation", "finite"])
def test_the_gradient_passes_unchanged(kind, count):
    made = {
        "gradient": lambda: levels(count=count),
        "ema": lambda: levels(EMAVectorQuantizer, count),
        "rotation": lambda: levels(count=count, through=rotate_through),
        "finite": lambda: [FiniteScalarQuantizer([3, 4, 5]) for _ in range(count)],
    }[kind]()
    z, upstream = draw(13, D).requires_grad_(), draw(13, D, seed=9)
    ResidualQuantizer(made)(z).z_q.backward(upstream)
    assert torch.equal(z.grad, upstream)
    assert all(parameter.grad is None for quantizer in made for parameter in quantizer.parameters())


def test_each_level_has_its_own_loss():
    """Earlier codes are constants in what is left, so level l trains z and its own codes only."""
    made, z = levels(beta=0.1), draw(2, 13, D).requires_grad_()
    z_q, indices, loss = ResidualQuantizer(made)(z)
    loss.backward()
    z_2, books = z.detach().clone().requires_grad_(), [q.codebook.detach().clone() for q in made]
    left, written = z_2, 0
    for number, book in enumerate(books):
        e = book.requires_grad_()[indices[..., number]]
        written += (left.detach() - e).square().mean()
        written += 0.1 * (left - e.detach()).square().mean()
        left = left - e.detach()
    written.backward()
    assert_close(loss, written)
    assert_close(z.grad, z_2.grad)
    for quantizer, book in zip(made, books, strict=True):
        assert_close(quantizer.codebook.grad, book.grad)
    assert_close(z_q, z - left)


@pytest.mark.parametrize("learning", [False, True])
def test_codes_and_statistics_of_the_peer(learning):
    made = levels(EMAVectorQuantizer, decay=0.8)
    ours = ResidualQuantizer(made).train(learning)
    peer = ResidualVQ(dim=D, codebook_size=SIZES, decay=0.8, rotation_trick=False).train(learning)
    for layer, quantizer in zip(peer.layers, made, strict=True):
        layer._codebook.embed.copy_(quantizer.codebook[None])
        layer._codebook.embed_avg.copy_(quantizer.codebook[None])
    z = draw(2, 29, D)
    z_q, indices, loss = ours(z)
    their_z_q, their_indices, their_loss = peer(z)
    assert torch.equal(indices, their_indices)
    assert_close(z_q, their_z_q, rtol=1e-5, atol=1e-6)
    if learning:
        assert_close(loss, 0.25 * their_loss.sum())
    for layer, quantizer in zip(peer.layers, made, strict=True):
        # Sums of 58 numbers up to 4: 58 · 4 · 2⁻²⁴ · 2.
        assert_close(quantizer.codebook, layer._codebook.embed[0], rtol=1e-5, atol=3e-5)


def test_look_up_is_what_forward_gave_and_levels_may_be_left_out():
    ours, z = ResidualQuantizer(levels()), draw(2, 13, D)
    z_q, indices, _ = ours(z)
    assert indices.shape == (2, 13, 3)
    assert torch.equal(ours.codes(indices), z_q)
    assert indices.max() < ours.num_codes == max(SIZES)
    errors = [(z - ours.codes(indices[..., :n])).square().mean() for n in (1, 2, 3)]
    assert errors[2] < errors[1] < errors[0]
    for wrong in (torch.zeros(4, 0).long(), torch.zeros(2, 4).long(), torch.tensor(1)):
        with pytest.raises(ValueError, match=r"indices: expected 1 to 3 levels, got \("):
            ours.codes(wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_rounded_once(dtype):
    """What is left after 100 − 99.9 is the 0.1 of float32, not that of 16 bits."""
    made = [VectorQuantizer(1, D), VectorQuantizer(2, D)]
    made[0].codebook.data.fill_(99.9)
    made[1].codebook.data.copy_(torch.tensor([[0.1], [-0.02]]).expand(2, D))
    z_q, indices, loss = ResidualQuantizer(made)(torch.full((4, D), 100.0, dtype=dtype))
    assert indices.tolist() == [[0, 0]] * 4
    assert torch.equal(z_q, torch.full((4, D), 100.0, dtype=dtype))
    assert (z_q.dtype, loss.dtype) == (dtype, torch.float32)
    assert_close(loss.item(), 1.25 * 0.1**2, rtol=2e-3, atol=0)  # 0.1 here is 100 − 99.9 ± 4e-6


def test_no_vector():
    z_q, indices, loss = ResidualQuantizer(levels())(torch.zeros(2, 0, D))
    assert (z_q.shape, indices.shape, loss.item()) == ((2, 0, D), (2, 0, 3), 0)


def test_bad_levels():
    with pytest.raises(ValueError, match="quantizers: expected at least one, got none"):
        ResidualQuantizer([])
    for other, said in (VectorQuantizer(5, 4), "3, 4"), (nn.Identity(), "3, None"):
        with pytest.raises(ValueError, match=rf"expected quantizers of one dim, got \[{said}\]"):
            ResidualQuantizer([VectorQuantizer(5, 3), other])
