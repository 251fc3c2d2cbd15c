"""The gradient codebook: the written loss by autograd, codes that pass unchanged, 16 bits."""

import pytest
import torch
from torch.testing import assert_close

from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.finite_scalar import FiniteScalarQuantizer
from companion.vqvae.gradients import rotate_through
from companion.vqvae.kmeans import kmeans
from companion.vqvae.quantizer import VectorQuantizer
from companion.vqvae.residual import ResidualQuantizer
from tests.bad_arguments import check_answers

K, D = 7, 3
CODEBOOKS = VectorQuantizer, EMAVectorQuantizer


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def quantizer(beta=0.25, **options):
    made = VectorQuantizer(K, D, beta=beta, **options).double()
    made.codebook.data.copy_(draw(K, D, seed=1))
    return made


def nearest(z, codebook):
    return (z[..., None, :] - codebook).square().sum(-1).argmin(-1)


def vectors():
    """Three axes, not contiguous."""
    return draw(D, 5, 11).movedim(0, -1).requires_grad_()


def test_loss_and_gradients_of_the_equation():
    """β is far from 1, so that it shows by which term it stands."""
    z, made = vectors(), quantizer(beta=0.1)
    z_q, indices, loss = made(z)
    assert torch.equal(indices, nearest(z, made.codebook))
    assert torch.equal(z_q, made.codebook[indices])  # to the bit, whatever passes through

    z_2, codebook = (x.detach().clone().requires_grad_() for x in (z, made.codebook))
    e = codebook[indices]
    written = (z_2.detach() - e).square().mean() + 0.1 * (z_2 - e.detach()).square().mean()
    assert_close(loss, written)
    loss.backward()
    written.backward()
    assert_close(z.grad, z_2.grad)
    assert_close(made.codebook.grad, codebook.grad)


def test_what_comes_later_reaches_the_vectors_and_not_the_codes():
    z, made = vectors(), quantizer()
    upstream = draw(5, 11, D, seed=2)
    made(z).z_q.backward(upstream)
    assert torch.equal(z.grad, upstream)
    assert made.codebook.grad is None


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_another_way_through(kind):
    z, made = draw(4, D, dtype=torch.float32).requires_grad_(), kind(K, D, through=rotate_through)
    z_2 = z.detach().clone().requires_grad_()
    upstream = draw(4, D, seed=2, dtype=torch.float32)
    z_q = made(z).z_q
    z_q.backward(upstream)
    rotate_through(z_2, z_q.detach()).backward(upstream)
    assert torch.equal(z.grad, z_2.grad)
    assert not torch.equal(z.grad, upstream)


@pytest.mark.parametrize("kind", CODEBOOKS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_vectors_in_16_bits(kind, dtype, autocast):
    """Codes that only float32 tells apart at 8 ± 0.01, where bfloat16 steps by 1/16."""
    made = kind(2, D).eval()
    made.codebook.data.copy_(torch.tensor([[8.01], [7.99]]).expand(2, D))
    z = torch.tensor([[8.0625], [7.9375], [8.0625]], dtype=dtype).expand(3, D).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        z_q, indices, loss = made(z)
    assert indices.tolist() == [0, 1, 0]
    assert (z_q.dtype, loss.dtype) == (dtype, torch.float32)
    assert torch.equal(z_q, made.codebook[indices].to(dtype))
    error = (z.float() - made.codebook[indices]).square().mean()  # (0.0525)²: 0 in bfloat16
    # 8.01 is rounded by 2⁻²², which (x − e)² makes 2 · 2⁻²² / 0.05, relatively.
    assert_close(loss, error * (1.25 if kind is VectorQuantizer else 0.25), rtol=1e-5, atol=0)
    (z_q.sum() + loss).backward()
    assert z.grad.dtype == dtype


@pytest.mark.parametrize("shape", [(0, D), (2, 0, D)])
@pytest.mark.parametrize("kind", CODEBOOKS)
def test_no_vector(kind, shape):
    made, z = kind(K, D), torch.zeros(shape, requires_grad=True)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    z_q, indices, loss = made(z)
    assert (z_q.shape, indices.shape, loss.item()) == (shape, shape[:-1], 0)
    (loss + z_q.sum()).backward()
    for name, value in made.state_dict().items():
        assert_close(value, before[name], rtol=1e-6, atol=0)  # codes are divided once more


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_one_vector_and_initial_codes(kind):
    state = torch.get_rng_state()
    made = kind(100, 200, generator=torch.Generator().manual_seed(0))
    again = kind(100, 200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.codebook, again.codebook)
    assert torch.equal(state, torch.get_rng_state())
    # Of 20,000 numbers in ±1/100 the greatest is missing 1 % with a chance of 0.995^20000.
    assert made.codebook.min() >= -0.01
    assert made.codebook.max() <= 0.01
    assert made.codebook.min() < -0.0099
    assert made.codebook.max() > 0.0099
    made.eval()
    z_q, index, _ = made(made.codebook[83].detach())
    assert (z_q.shape, index.shape, index.item()) == ((200,), (), 83)


@pytest.mark.parametrize("index_type", [torch.int32, torch.int64])
@pytest.mark.parametrize("kind", CODEBOOKS)
def test_look_up(kind, index_type):
    made = kind(K, D)
    indices = torch.tensor([[6, 0, 2], [1, 1, 5]], dtype=index_type)
    assert torch.equal(made.codes(indices), made.codebook[indices.long()])


@pytest.mark.parametrize(
    "made",
    [
        *(kind(K, D) for kind in CODEBOOKS),
        FiniteScalarQuantizer([3] * D),
        ResidualQuantizer([VectorQuantizer(K, D), FiniteScalarQuantizer([3] * D)]),
    ],
    ids=lambda made: type(made).__name__,
)
def test_what_is_no_vector_or_no_index(made):
    assert made.dim == D
    with pytest.raises(ValueError, match=r"z: expected shape \(..., 3\), got \(3, 4\)"):
        made(torch.zeros(D, 4))
    with pytest.raises(ValueError, match=r"expected shape .*, got \(\)"):
        made(torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"z: expected floating-point numbers, got torch.int64"):
        made(torch.zeros(4, D, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"indices: expected a tensor of integers, got torch.float"):
        made.codes(torch.zeros(4))
    with pytest.raises(TypeError, match=r"indices: expected a tensor of integers, got list"):
        made.codes([1])


def test_bad_arguments_get_an_error_that_helps():
    common = {"num_codes": 5, "dim": 3, "beta": 0.5, "through": rotate_through}
    common |= {"generator": torch.Generator()}
    average = {"decay": 0.9, "epsilon": 0.1, "revive_below": 0.5, "kmeans_start": True}
    check_answers(
        {
            VectorQuantizer: common,
            EMAVectorQuantizer: common | average,
            FiniteScalarQuantizer: {"levels": [3, 5]},
            ResidualQuantizer: {"quantizers": [VectorQuantizer(5, 3)]},
            kmeans: {"vectors": torch.rand(5, 3), "num_codes": 2, "iterations": 3}
            | {"generator": torch.Generator()},
        }
    )
