"""The fast product against the plain one, by hand, and under every transformation of PyTorch."""

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, vmap

from companion.lora.low_rank import add_low_rank, add_low_rank_reference, lora_delta

SCALE = 1.7


def factors(*batch, inputs=7, outputs=11, rank=3, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = [(*batch, outputs), (*batch, inputs), (rank, inputs), (outputs, rank)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
        for shape in shapes
    ]


def test_by_hand():
    y, x = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[2.0, -1.0]])
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0], [-2.0]])
    # A x = 6 − 4 = 2, times B and ½.
    expected = torch.tensor([[2.0, 1.0, -1.0]])
    torch.testing.assert_close(add_low_rank(y, x, a, b, scale=0.5), expected)
    torch.testing.assert_close(add_low_rank_reference(y, x, a, b, scale=0.5), expected)
    delta = torch.tensor([[1.5, 2.0], [0.0, 0.0], [-3.0, -4.0]])
    torch.testing.assert_close(lora_delta(a, b, scale=0.5), delta)


@pytest.mark.parametrize(
    ("dtype", "atol", "rtol"),
    [(torch.float32, 1e-5, 1e-5), (torch.float64, 1e-13, 1e-13), (torch.bfloat16, 0.1, 0.05)],
)
@pytest.mark.parametrize("batch", [(), (5,), (2, 5), (2, 3, 5), (0,), (2, 0)])
def test_fast_is_plain(batch, dtype, atol, rtol, device):
    y, x, a, b = factors(*batch, dtype=dtype, device=device)
    fast = add_low_rank(y, x, a, b, scale=SCALE)
    expected = add_low_rank_reference(*(t.double() for t in (y, x, a, b)), scale=SCALE)
    assert fast.dtype == dtype
    torch.testing.assert_close(fast, expected.to(dtype), atol=atol, rtol=rtol)


def test_inputs_that_are_not_contiguous_stay_as_they_were():
    y, x, a, b = factors(2, 5)
    strided = [t.mT.contiguous().mT for t in (y, x, a, b)]
    expected = add_low_rank_reference(y, x, a, b, scale=SCALE)
    torch.testing.assert_close(add_low_rank(*strided, scale=SCALE), expected)
    for before, after in zip((y, x, a, b), strided, strict=True):
        assert torch.equal(before, after)


def test_the_output_is_contiguous():
    y, x, a, b = factors(2, 5)
    assert add_low_rank(y, x, a, b, scale=SCALE).is_contiguous()


def test_first_and_second_derivatives():
    inputs = [t.requires_grad_() for t in factors(2, 3, inputs=5, outputs=4, rank=2)]

    def call(*tensors):
        return add_low_rank(*tensors, scale=SCALE)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_gradients_by_hand():
    """With G = ∂L/∂y: ∂L/∂A = s Bᵀ Gᵀ x and ∂L/∂B = s Gᵀ x Aᵀ and ∂L/∂x = s G B A."""
    y, x, a, b = (t.requires_grad_() for t in factors(2, 5))
    g = torch.randn(2, 5, 11, dtype=torch.float64)
    add_low_rank(y, x, a, b, scale=SCALE).backward(g)
    g_BO, x_BI = g.flatten(0, 1), x.detach().flatten(0, 1)
    a_RI, b_OR = a.detach(), b.detach()
    torch.testing.assert_close(a.grad, SCALE * b_OR.T @ g_BO.T @ x_BI)
    torch.testing.assert_close(b.grad, SCALE * g_BO.T @ x_BI @ a_RI.T)
    torch.testing.assert_close(x.grad, SCALE * g @ b_OR @ a_RI)
    torch.testing.assert_close(y.grad, g)


def test_the_gradients_are_laid_out_as_the_factors():
    y, x, a, b = factors(5)
    for t in (a, b):
        t.requires_grad_()
    add_low_rank(y, x, a, b, scale=SCALE).sum().backward()
    assert a.grad.is_contiguous()
    assert b.grad.is_contiguous()


# torch.func.jacfwd itself calls what torch has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_transformations_of_torch_func():
    y, x, a, b = factors(5)

    def loss(a, b, x, y, call=add_low_rank):
        return call(y, x, a, b, scale=SCALE).square().sum()

    def plain(*args):
        return loss(*args, call=add_low_rank_reference)

    torch.testing.assert_close(grad(loss)(a, b, x, y), grad(plain)(a, b, x, y))
    # One gradient of A for each sample, as differential privacy wants them.
    each = (None, None, 0, 0)
    per_sample = vmap(grad(loss), in_dims=each)(a, b, x, y)
    torch.testing.assert_close(per_sample.sum(0), grad(plain)(a, b, x, y))
    # Several adapters on one input.
    many_a = torch.stack([a, 2 * a, -a])
    torch.testing.assert_close(
        vmap(loss, in_dims=(0, None, None, None))(many_a, b, x, y),
        torch.stack([plain(each_a, b, x, y) for each_a in many_a]),
    )
    small = [t[..., :2] for t in (a, x)]
    hessian = jacfwd(jacrev(lambda b: loss(small[0], b, small[1], y)))(b)
    expected = jacfwd(jacrev(lambda b: plain(small[0], b, small[1], y)))(b)
    torch.testing.assert_close(hessian, expected)


@pytest.mark.parametrize("call", [add_low_rank, add_low_rank_reference])
def test_compiled_in_one_graph(call, device):
    tensors = factors(2, 5, device=device)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    expected = add_low_rank_reference(*tensors, scale=SCALE)
    torch.testing.assert_close(compiled(*tensors, scale=SCALE), expected)


def test_delta_is_not_rounded_by_autocast(device):
    _, _, a, b = factors(5, dtype=torch.float32, device=device)
    exact = SCALE * b.double() @ a.double()
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        delta = lora_delta(a, b, scale=SCALE)
        assert (a.T @ b.T).dtype == torch.bfloat16  # autocast is on, and on again
    torch.testing.assert_close(delta.double(), exact, atol=1e-5, rtol=1e-5)
