"""Straight through, and through a rotation: exact values, and gradients by matrices."""

import math

import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from companion.vqvae.gradients import rotate_through, straight_through

BOTH = pytest.mark.parametrize("through", [straight_through, rotate_through])
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def triple(dtype=torch.float64, seed=0) -> list[Tensor]:
    """z, z_q and the gradient of the output; of different sizes, and none contiguous."""
    random = torch.Generator().manual_seed(seed)
    draws = (torch.randn(7, 5, 3, dtype=torch.float64, generator=random) for _ in range(3))
    z, z_q, grad = ((factor * x).to(dtype).mT for factor, x in zip((3, 0.5, 1), draws, strict=True))
    return [z.requires_grad_(), z_q.requires_grad_(), grad]


def gradient(through, z, z_q, grad) -> Tensor:
    z = z.detach().clone().requires_grad_()
    through(z, z_q).backward(grad)
    return z.grad


def map_of(z: Tensor, z_q: Tensor) -> Tensor:
    """λ R, with R as two reflections: the first takes ẑ to −ẑ, the second takes that to q̂."""
    z, z_q = z.detach().double(), z_q.detach().double()
    z_norm, q_norm = z.norm(dim=-1, keepdim=True), z_q.norm(dim=-1, keepdim=True)
    total = z / z_norm + z_q / q_norm
    first, second = (reflection(x / x.norm(dim=-1, keepdim=True)) for x in (z, total))
    return (q_norm / z_norm)[..., None] * (second @ first)


def reflection(unit: Tensor) -> Tensor:
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype)
    return eye - 2 * unit[..., :, None] * unit[..., None, :]


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_is_the_code_bit_for_bit(through, dtype):
    z = torch.tensor([1e4, -3.0, 0.0, 7.0, 0.1], dtype=dtype)
    z_q = torch.tensor([0.1, 2e4, -0.0, 1e-4, 0.3], dtype=dtype)
    assert not torch.equal(z + (z_q - z), z_q)  # the usual form rounds
    out = through(z.requires_grad_(), z_q)
    assert torch.equal(out, z_q)
    assert torch.equal(out.signbit(), z_q.signbit())
    assert torch.equal(through(torch.zeros(5, dtype=dtype), z_q), z_q)


@BOTH
def test_changing_the_result_changes_no_input(through):
    z, z_q, _ = triple()
    before = z_q.detach().clone()
    through(z, z_q).mul_(3).sum().backward()
    assert torch.equal(z_q, before)


@BOTH
def test_nothing_reaches_the_code(through):
    z, z_q, grad = triple()
    through(z, z_q).backward(grad)
    assert z_q.grad is None
    assert z.grad.dtype == z.dtype


def test_straight_through_copies_the_gradient():
    z, z_q, grad = triple()
    assert torch.equal(gradient(straight_through, z, z_q, grad), grad)
    scalar = torch.tensor(0.3, requires_grad=True)
    straight_through(scalar, scalar.detach().round()).backward()
    assert scalar.grad == 1


def test_straight_through_can_be_differentiated_twice():
    """Of y³ with y = z_q: first 3 y², then 6 y, each passed on to z."""
    z, z_q, weight = triple()
    (first,) = torch.autograd.grad(straight_through(z, z_q).pow(3).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad((weight * first).sum(), z)
    torch.testing.assert_close(first, 3 * z_q.square())
    torch.testing.assert_close(second, 6 * z_q * weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_by_its_matrix(dtype):
    """Rounded to the dtype once; before that, at most some tens of roundings, in float32."""
    z, z_q, grad = triple(dtype)
    matrix = map_of(z, z_q)
    exact = (matrix.mT @ grad.double()[..., None])[..., 0]
    error = (gradient(rotate_through, z, z_q, grad).double() - exact).abs()
    u, wide_u = (torch.finfo(x).eps / 2 for x in (dtype, torch.promote_types(dtype, torch.float32)))
    # ẑ, q̂ and λ are right to (D + 4) u, and r, whose sum may be short, to 2 (D + 5) u / ‖ẑ + q̂‖.
    # Five products of two of them, and four inner products, make less than 40 (D + 4) u / ‖ẑ + q̂‖.
    total = sum(
        x.detach().double() / x.detach().double().norm(dim=-1, keepdim=True) for x in (z, z_q)
    )
    work = 40 * (z.shape[-1] + 4) * wide_u * grad.double().norm(dim=-1, keepdim=True)
    scale = z_q.double().norm(dim=-1, keepdim=True) / z.double().norm(dim=-1, keepdim=True)
    smallest = torch.finfo(dtype).tiny
    bound = u * exact.abs() + work * scale / total.norm(dim=-1, keepdim=True) + smallest
    assert (error <= bound).all()


def test_rotation_as_the_library_does_it():
    z, z_q, grad = triple()
    other = z.detach().clone().requires_grad_()
    rotated = rotate_to(other, z_q)
    torch.testing.assert_close(rotated, z_q, rtol=1e-11, atol=1e-11)  # theirs is rounded
    rotated.backward(grad)
    torch.testing.assert_close(gradient(rotate_through, z, z_q, grad), other.grad)


def test_rotation_where_a_vector_is_zero():
    grad = torch.tensor([[2.0, -3.0, 5.0]]).expand(3, 3)
    z, z_q = torch.tensor([[0.0] * 3, [1.0, 2.0, 2.0], [0.0] * 3]), torch.zeros(3, 3)
    z_q[0] = torch.tensor([0.0, 4.0, 3.0])
    expected = torch.stack([grad[0], torch.zeros(3), grad[0]])
    assert torch.equal(gradient(rotate_through, z, z_q, grad), expected)


def test_rotation_where_the_code_is_opposite():
    """−2 times the part along z, 2 times the rest: λ is 2, and R turns only z around."""
    z, grad = torch.tensor([0.6, 0.8, 0.0]), torch.tensor([1.0, 2.0, 7.0])
    along = (grad @ z) * z
    torch.testing.assert_close(
        gradient(rotate_through, z, -2 * z, grad), 2 * (grad - along) - 2 * along
    )
    one = gradient(rotate_through, torch.tensor([3.0]), torch.tensor([-6.0]), torch.tensor([5.0]))
    assert one == -10


def test_rotation_close_to_opposite_keeps_lengths():
    """The direction of r is right to u / ‖ẑ + q̂‖, which is at most u / √ε, a few thousandths."""
    angle = math.pi - torch.logspace(-8, 0, 97, dtype=torch.float64)
    zero = torch.zeros_like(angle)
    z_q = torch.stack([angle.cos(), angle.sin(), zero], dim=1).float()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    z, z_q = turn[0].expand(97, 3), z_q @ turn
    grad = torch.tensor([0.48, -0.6, 0.64]).expand(97, 3)
    lengths = gradient(rotate_through, z, z_q, grad).norm(dim=1)
    u, eps = torch.finfo(torch.float32).eps / 2, torch.finfo(torch.float32).eps
    error_of_r = 2 * (z.shape[1] + 5) * u / math.sqrt(eps)
    # R = I − 2 r rᵀ + 2 q̂ ẑᵀ changes by at most 4 times that; and R itself below √ε, by √ε.
    torch.testing.assert_close(
        lengths, torch.ones(97), atol=4 * error_of_r + 2 * math.sqrt(eps), rtol=0
    )


def test_rotation_is_linear_in_the_gradient_and_constant_in_z():
    z, z_q, weight = triple()
    weight.requires_grad_()
    (first,) = torch.autograd.grad((weight * rotate_through(z, z_q)).sum(), z, create_graph=True)
    v = torch.randn(first.shape, dtype=first.dtype, generator=torch.Generator().manual_seed(3))
    back, of_z = torch.autograd.grad((v * first).sum(), (weight, z), allow_unused=True)
    torch.testing.assert_close(back, (map_of(z, z_q) @ v[..., None])[..., 0])
    assert of_z is None
    z0 = torch.zeros(3, requires_grad=True)
    w = torch.ones(3, requires_grad=True)
    (first,) = torch.autograd.grad(
        (w * rotate_through(z0, torch.ones(3))).sum(), z0, create_graph=True
    )
    (back,) = torch.autograd.grad(first.sum(), w)
    assert torch.equal(back, torch.ones(3))  # finite, and the identity


@BOTH
def test_under_vmap_and_with_empty_inputs(through):
    z, z_q, weight = (x.detach() for x in triple())

    def loss(z, z_q, weight):
        return (weight * through(z, z_q)).sum()

    found = torch.func.vmap(torch.func.grad(loss))(z, z_q, weight)
    torch.testing.assert_close(found, gradient(through, z, z_q, weight))
    assert gradient(through, z[:0], z_q[:0], weight[:0]).shape == (0, 3, 5)


@BOTH
def test_refused(through):
    z = torch.ones(7, 3)
    with pytest.raises(ValueError, match=r"z_q: expected z's shape, \(7, 3\), got \(3,\)"):
        through(z, z[0])
    with pytest.raises(TypeError, match=r"z's dtype, torch.float32, got torch.float16"):
        through(z, z.half())
    with pytest.raises(TypeError, match="z: expected a tensor of floating-point numbers"):
        through(z.int(), z)
    with pytest.raises(ValueError, match="z's device, cpu, got meta"):
        through(z, z.to("meta"))


def test_rotation_needs_a_dimension():
    with pytest.raises(ValueError, match="z must have a dimension of codes, got a scalar"):
        rotate_through(torch.tensor(1.0), torch.tensor(1.0))
