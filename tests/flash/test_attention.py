"""flash_attention against float64, against PyTorch's, and where a reader would break it."""

import math
import sys
import threading

import pytest
import torch
from torch.nn import functional as F

from companion.flash import attention_backend, flash_attention, naive_attention
from tests.flash.front_oracle import (
    INTERPRETED,
    assert_exact,
    assert_precise,
    gradients,
    inputs,
    reference,
    seen_TS,
)

CASES = [  # (B, H, G, T, S, D), mask
    ((1, 1, 1, 1, 1, 16), {}),
    ((2, 6, 2, 3, 3, 40), {"causal": True}),
    ((2, 3, 1, 1, 113, 59), {"causal": True}),
    ((1, 4, 2, 113, 113, 64), {"causal": True}),
    ((2, 3, 3, 113, 257, 40), {"causal": True}),
    ((1, 2, 2, 257, 113, 59), {"causal": True}),  # the first 144 queries see no key
    ((2, 2, 1, 113, 3, 128), {}),
    ((1, 6, 3, 257, 257, 59), {"window": 31, "causal": True}),
    ((1, 2, 1, 113, 257, 40), {"window": 17}),
    ((1, 2, 1, 257, 113, 16), {"window": (9, 5)}),  # some queries see no key, on either side
    ((1, 2, 2, 3, 113, 256), {"window": (None, 2)}),
    ((1, 2, 2, 113, 3, 17), {"window": (4, -1)}),
    ((2, 2, 1, 113, 59, 64), {"window": (0, 3), "causal": True, "scale": 0.7}),
    ((1, 2, 1, 1023, 1023, 64), {"causal": True}),
]


def flash(**settings):
    return lambda q, k, v: flash_attention(q, k, v, return_lse=True, **settings)


def exact(**settings):
    return lambda q, k, v: reference(q, k, v, **settings)


# What it computes


@pytest.mark.parametrize("backend", ["tiled", "naive"])
@pytest.mark.parametrize("window", [sys.maxsize, (sys.maxsize, 2), (1, sys.maxsize)], ids=str)
@pytest.mark.parametrize("shape", [(1, 2, 1, 7, 3, 16), (1, 2, 1, 3, 7, 16)], ids=str)
def test_the_largest_number_stands_for_all(backend, window, shape):
    """A position less or plus such a side is no int64: it would wrap, and hide what is seen."""
    q, k, v, *_ = inputs(*shape)
    sides = window if isinstance(window, tuple) else (window, window)
    unlimited = tuple(None if side == sys.maxsize else side for side in sides)
    with attention_backend(backend):
        got = flash(window=window)(q, k, v)
    assert_exact(got, reference(q, k, v, window=unlimited))


@pytest.mark.parametrize("backend", ["tiled", "naive"])
def test_by_hand(backend):
    """Scores 0 and ln 3 weigh 1 : 3; with `causal` the first query sees one key only."""
    q, k, v = (torch.zeros(1, 1, 2, 16) for _ in range(3))
    q[..., 0], k[..., 1, 0] = 1.0, math.log(3)
    v[0, 0, :, 0] = torch.tensor([8.0, 4.0])
    with attention_backend(backend):
        full, lse = flash_attention(q, k, v, scale=1.0, return_lse=True)
        causal, causal_lse = flash_attention(q, k, v, scale=1.0, causal=True, return_lse=True)
    torch.testing.assert_close(full[0, 0, :, 0], torch.tensor([5.0, 5.0]))
    torch.testing.assert_close(lse[0, 0].exp(), torch.tensor([4.0, 4.0]))
    torch.testing.assert_close(causal[0, 0, :, 0], torch.tensor([8.0, 5.0]))
    torch.testing.assert_close(causal_lse[0, 0].exp(), torch.tensor([1.0, 4.0]))


@pytest.mark.parametrize(("shape", "mask"), CASES, ids=str)
def test_everything_in_float64(shape, mask, device):
    tensors = inputs(*shape, device=device)
    assert_exact(gradients(flash(**mask), *tensors), gradients(exact(**mask), *tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "mask"), [CASES[i] for i in (1, 4, 5, 7, 10)], ids=str)
def test_low_precision_errs_no_more_than_its_dtype_allows(shape, mask, dtype, device):
    tensors = inputs(*shape, dtype=dtype, device=device)
    got = gradients(flash(**mask), *tensors)
    assert [x.dtype for x in got] == [dtype, torch.float32, dtype, dtype, dtype]
    assert_precise(got, tensors, **mask)


@pytest.mark.parametrize("mask", [{}, {"causal": True}, {"window": 5}, {"window": (7, 2)}], ids=str)
def test_is_pytorchs_with_the_mask_spelled_out(mask):
    q, k, v, w_out, _ = inputs(2, 6, 2, 53, 71, 24, dtype=torch.float32)
    seen = seen_TS(53, 71, **mask)

    def sdpa(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)

    def results(run):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = run(*leaves)
        return [out, *torch.autograd.grad((out * w_out).sum(), leaves)]

    mine = results(lambda *x: flash_attention(*x, **mask))
    assert_exact(mine, results(sdpa), atol=1e-5)


@INTERPRETED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "mask"),
    [((1, 2, 1, 5, 9, 16), {"causal": True}), ((2, 3, 3, 19, 7, 40), {"window": (3, 1)})],
    ids=str,
)
def test_kernels_give_the_same(shape, mask, dtype):
    tensors = inputs(*shape, dtype=dtype)
    with attention_backend("triton"):
        got = gradients(flash(**mask), *tensors)
    assert_precise(got, tensors, **mask)


@pytest.mark.parametrize("mask", [m for _, m in CASES[3:8]], ids=str)
def test_naive_back_end_gives_the_same(mask):
    tensors = inputs(2, 4, 2, 19, 13, 16)
    with attention_backend("naive"):
        assert_exact(gradients(flash(**mask), *tensors), gradients(exact(**mask), *tensors))


def test_gradcheck():
    q, k, v = (x.requires_grad_() for x in inputs(1, 4, 2, 5, 7, 16)[:3])
    assert torch.autograd.gradcheck(flash(causal=True, window=4), (q, k, v), fast_mode=True)


# Rows that see nothing, huge scores, empty batches


@pytest.mark.parametrize("backend", ["tiled", "naive"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_blind_rows_are_zero_and_minus_infinity(backend, dtype):
    q, k, v, w_out, _ = inputs(2, 3, 1, 7, 4, 16, dtype=dtype)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    with attention_backend(backend):
        out, lse = flash_attention(*leaves, causal=True, return_lse=True)
    assert not out[:, :, :3].any()
    assert (lse[:, :, :3] == -math.inf).all()
    assert lse[:, :, 3:].isfinite().all()
    dq, dk, dv = torch.autograd.grad((out * w_out).sum() + lse[:, :, 3:].sum(), leaves)
    assert not dq[:, :, :3].any()
    assert all(x.isfinite().all() for x in (dq, dk, dv))
    with attention_backend(backend):  # every row is blind
        out, lse = flash_attention(q, k, v, window=(0, 0), return_lse=True)
        blind = flash_attention(q[:, :, :1], k[:, :, :1], v[:, :, :1], window=(5, 0))
    assert out[:, :, 3:].any()
    assert blind.any()


def test_huge_scores_do_not_overflow():
    q, k, v, *_ = inputs(1, 2, 2, 33, 65, 16, dtype=torch.float32)
    out, lse = flash_attention(1e4 * q, k, v, causal=True, return_lse=True)
    expected = reference(1e4 * q, k, v, causal=True)
    torch.testing.assert_close(lse.double(), expected[1], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(out.double(), expected[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("backend", ["tiled", "naive"])
def test_empty_batch(backend):
    q, k, v = (x.requires_grad_() for x in inputs(0, 4, 2, 5, 7, 16, dtype=torch.float16)[:3])
    with attention_backend(backend):
        out, lse = flash_attention(q, k, v, return_lse=True)
    assert (out.shape, out.dtype) == ((0, 4, 5, 16), torch.float16)
    assert (lse.shape, lse.dtype) == ((0, 4, 5), torch.float32)
    (out.sum() + lse.sum()).backward()
    assert k.grad.shape == k.shape


# Memory: strides, poison, bits


def test_any_strides():
    """Heads beside tokens, as a projection leaves them; a last dimension that is not contiguous."""
    tensors = inputs(2, 4, 2, 21, 21, 24)
    q, k, v, w_out, w_lse = tensors
    strided = [
        q.transpose(1, 2).contiguous().transpose(1, 2),
        k.mT.contiguous().mT,
        v.repeat_interleave(2, dim=2)[:, :, ::2],
    ]
    expected = gradients(exact(causal=True), *tensors)
    leaves = [x.requires_grad_() for x in strided]
    out, lse = flash_attention(*leaves, causal=True, return_lse=True)
    assert out.is_contiguous()
    loss = (out.transpose(1, 2) * w_out.transpose(1, 2)).sum() + (lse * w_lse).sum()
    assert_exact([out, lse, *torch.autograd.grad(loss, leaves)], expected)
    (dq,) = torch.autograd.grad(flash_attention(*leaves).sum(), leaves[:1])  # strides of 0
    ones = torch.ones_like(w_out)
    assert_exact([dq], gradients(exact(), *strided, ones, 0 * w_lse)[2:3])


def test_heads_that_share_memory():
    """Keys and values expanded over the heads: a stride of 0."""
    q, k, v, *_ = inputs(2, 4, 1, 9, 9, 16)
    k4, v4 = (x.expand(2, 4, 9, 16) for x in (k, v))
    assert_exact([flash_attention(q, k4, v4)], [flash_attention(q, k, v)])
    assert_exact([flash_attention(q, k4, v4)], reference(q, k, v)[:1])


@pytest.fixture
def _poisoned():
    """torch.empty is filled with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poisoned")
@pytest.mark.parametrize("mask", [{"causal": True}, {"window": 9}, {"window": (2, 0)}], ids=str)
def test_every_number_is_written(mask):
    assert torch.empty(3).isnan().all()
    tensors = inputs(1, 4, 2, 131, 67, 24)
    assert_exact(gradients(flash(**mask), *tensors), gradients(exact(**mask), *tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("deterministic", [True, False])
def test_gradients_are_the_same_bits(dtype, deterministic, device):
    tensors = inputs(2, 6, 2, 113, 257, 40, dtype=dtype, device=device)
    settings = {"causal": True, "deterministic": deterministic}
    first, second = (gradients(flash(**settings), *tensors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_inputs_are_left_alone():
    tensors = inputs(1, 2, 1, 9, 11, 16)
    copies = [x.clone() for x in tensors]
    gradients(flash(causal=True), *tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


# Autograd


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (1, 2)], ids=str)
def test_gradients_only_where_wanted(needed):
    tensors = inputs(1, 2, 1, 9, 11, 16)
    expected = gradients(exact(), *tensors)[2:]
    leaves = [x.requires_grad_(i in needed) for i, x in enumerate(tensors[:3])]
    out, lse = flash_attention(*leaves, return_lse=True)
    ((out * tensors[3]).sum() + (lse * tensors[4]).sum()).backward()
    for i, leaf in enumerate(leaves):
        if i in needed:
            assert_exact([leaf.grad], [expected[i]])
        else:
            assert leaf.grad is None


def test_log_sum_exp_alone_has_gradients():
    tensors = inputs(1, 2, 1, 9, 11, 16)
    tensors[3].zero_()
    leaves = [x.clone().requires_grad_() for x in tensors[:3]]
    (flash_attention(*leaves, return_lse=True)[1] * tensors[4]).sum().backward()
    assert_exact([x.grad for x in leaves], gradients(exact(), *tensors)[2:])


def test_second_derivative_is_refused_and_naive_has_it():
    q, k, v = (x.requires_grad_() for x in inputs(1, 2, 1, 3, 5, 16)[:3])
    (dq,) = torch.autograd.grad(flash_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative here.*use naive_attention"):
        dq.sum().backward()

    def penalty(attend):
        (dq,) = torch.autograd.grad(attend(q, k, v).square().sum(), q, create_graph=True)
        return torch.autograd.grad(dq.square().sum(), k)

    with attention_backend("naive"):
        got = penalty(flash_attention)
    assert_exact(got, penalty(lambda q, k, v: reference(q, k, v)[0]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch.func.jvp uses it
def test_forward_mode_is_refused():
    q, k, v = inputs(1, 2, 1, 3, 5, 16)[:3]
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(lambda q: flash_attention(q, k, v), (q,), (q,))


def test_changing_an_input_before_backward_is_noticed():
    q, k, v = inputs(1, 2, 1, 3, 5, 16)[:3]
    out = flash_attention(q.requires_grad_(), k, v)
    k.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_from_many_threads():
    tensors = inputs(2, 4, 2, 33, 33, 16)
    expected = gradients(exact(causal=True), *tensors)
    failures = []

    def work():
        try:
            assert_exact(gradients(flash(causal=True), *tensors), expected)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# torch.func


def test_grad_of_a_function():
    q, k, v, w_out, w_lse = inputs(1, 4, 2, 5, 7, 16)

    def loss(q, k, v):
        out, lse = flash_attention(q, k, v, causal=True, return_lse=True)
        return (out * w_out).sum() + (lse * w_lse).sum()

    got = torch.func.grad(loss, argnums=(0, 1, 2))(q, k, v)
    assert_exact(got, gradients(exact(causal=True), q, k, v, w_out, w_lse)[2:])
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.func.grad(lambda q: torch.func.grad(loss)(q, k, v).sum())(q)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (2, None, 1), (None, 3, None)], ids=str)
def test_vmap(in_dims):
    batches = [inputs(2, 4, 2, 5, 7, 16, seed=i)[:3] for i in range(3)]
    args = [
        torch.stack(list(xs), dim) if dim is not None else xs[0]
        for xs, dim in zip(zip(*batches, strict=True), in_dims, strict=True)
    ]
    out, lse = torch.vmap(flash(causal=True), in_dims)(*args)
    for i in range(3):
        single = (x if d is None else x.select(d, i) for x, d in zip(args, in_dims, strict=True))
        assert_exact([out[i], lse[i]], reference(*single, causal=True))


def test_gradient_per_sample_and_jacobian():
    q, k, v, *_ = inputs(3, 2, 1, 4, 5, 16)

    def loss(q, k, v):
        return flash_attention(q[None], k[None], v[None], causal=True).square().sum()

    def exact_loss(q, k, v):
        return reference(q[None], k[None], v[None], causal=True)[0].square().sum()

    got = torch.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    expected = torch.func.vmap(torch.func.grad(exact_loss, argnums=(0, 1, 2)))(q, k, v)
    assert_exact(got, expected)
    for output in (0, 1):
        jacobians = torch.func.jacrev(lambda k: flash()(q, k, v)[output])(k)  # noqa: B023
        exact_jacobians = torch.func.jacrev(lambda k: reference(q, k, v)[output])(k)  # noqa: B023
        assert_exact([jacobians], [exact_jacobians])


def test_vmap_of_vmap():
    q, k, v, *_ = inputs(4, 2, 2, 4, 5, 16)
    pairs = [x.unflatten(0, (2, 2)).unsqueeze(2) for x in (q, k, v)]
    out = torch.vmap(torch.vmap(flash_attention))(*pairs)
    assert_exact([out.flatten(0, 2)], reference(q, k, v)[:1])


# Autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_does_what_it_does_to_pytorchs(dtype):
    q, k, v, *_ = inputs(1, 2, 2, 33, 33, 16, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in (q, k.to(dtype).detach(), v)]  # dtypes may be mixed
    with torch.autocast("cpu", dtype=dtype):
        out, lse = flash_attention(*leaves, causal=True, return_lse=True)
        theirs = F.scaled_dot_product_attention(*leaves, is_causal=True)
        assert out.dtype == theirs.dtype == dtype
        assert lse.dtype == torch.float32
        out.float().sum().backward()  # inside the context: the tiles must not be cast again
    assert [x.grad.dtype for x in leaves] == [torch.float32, dtype, torch.float32]
    rounded = [x.detach().to(dtype) for x in leaves]
    assert torch.equal(out, flash_attention(*rounded, causal=True))
    again = [x.requires_grad_() for x in rounded]
    flash_attention(*again, causal=True).float().sum().backward()
    for mine, theirs in zip(leaves, again, strict=True):
        assert torch.equal(mine.grad.to(dtype), theirs.grad)


def test_autocast_leaves_float64_alone():
    q, k, v, *_ = inputs(1, 2, 2, 5, 5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_exact([flash_attention(q, k, v)], reference(q, k, v)[:1])
        assert F.scaled_dot_product_attention(q, k, v).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16), attention_backend("naive"):
        assert flash_attention(q, k, v).dtype == torch.float64


def test_low_precision_sums_are_wide_inside_autocast():
    """512 values of 1 and one key more: in bfloat16 a sum stops growing at 256."""
    q, k = torch.zeros(1, 1, 1, 16), torch.zeros(1, 1, 513, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lse = flash_attention(q, k, k, return_lse=True)[1]
    torch.testing.assert_close(lse.exp(), torch.full((1, 1, 1), 513.0))


def test_naive_attention_is_no_part_of_the_oracle():
    """The oracle is written out anew; here the two are seen to agree."""
    q, k, v, *_ = inputs(2, 4, 2, 9, 7, 5)
    assert_exact([naive_attention(q, k, v, window=3)], reference(q, k, v, window=3)[:1])
