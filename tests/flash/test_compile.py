"""torch.compile without a break, and what torch.library says of the operators."""

import pytest
import torch

from companion.flash import (
    attention,
    attention_backend,
    flash_attention,
    flash_attention_varlen,
    flash_decode,
    merge_partials,
)
from tests.flash.front_oracle import assert_exact, gradients, inputs, reference

# aot_eager traces forward and backward as any other back end does, and needs no C++ compiler.
compiled = {"fullgraph": True, "backend": "aot_eager"}

# torch's own tracing uses what it has deprecated itself.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("backend", "dynamic"), [("tiled", False), ("tiled", True), ("naive", False)]
)
def test_forward_and_backward(dynamic, backend):
    def run(q, k, v):
        return flash_attention(q, k, v, causal=True, window=9, return_lse=True)

    with attention_backend(backend):
        fast = torch.compile(run, dynamic=dynamic, **compiled)
        for shape in [(2, 4, 2, 11, 13, 16), (3, 4, 2, 7, 17, 16)]:
            tensors = inputs(*shape)
            expected = gradients(lambda *x: reference(*x, causal=True, window=9), *tensors)
            assert_exact(gradients(fast, *tensors), expected)


def test_no_gradient_and_autocast():
    q, k, v, *_ = inputs(1, 2, 2, 9, 9, 16, dtype=torch.float32)

    @torch.compile(**compiled)
    def run(q, k, v):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return flash_attention(q, k, v)

    with torch.no_grad():
        out = run(q, k, v)
    assert torch.equal(out, flash_attention(*(x.bfloat16() for x in (q, k, v))))


def test_a_compiled_function_keeps_its_back_end(monkeypatch):
    """As documented: the compiler has no guard for it."""
    q, k, v, *_ = inputs(1, 2, 2, 9, 9, 16)
    calls, passes = [], attention._passes
    monkeypatch.setattr(attention, "_passes", lambda name: calls.append(name) or passes(name))
    run = torch.compile(flash_attention, **compiled)
    with attention_backend("naive"):
        expected = run(q, k, v)
    assert torch.equal(run(q, k, v), expected)
    assert calls == []
    flash_attention(q, k, v)
    assert calls == ["tiled"]


def test_errors_come_through():
    q, k, v, *_ = inputs(1, 3, 2, 5, 5, 16)
    with pytest.raises(Exception, match="key heads must divide query heads"):
        torch.compile(flash_attention, backend="aot_eager")(q, k, v)


def test_varlen_with_offsets_that_change():
    @torch.compile(**compiled)
    def run(q, k, v, offsets):
        return flash_attention_varlen(
            q, k, v, q_offsets=offsets, k_offsets=offsets, causal=True, return_lse=True
        )

    tensors = [torch.randn(9, 2, 16, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    for middle in (3, 7):
        offsets = torch.tensor([0, middle, 9])
        out, lse = run(*tensors, offsets)
        grads = torch.autograd.grad(out.sum() + lse.sum(), tensors)
        parts = [
            [x[a:b].transpose(0, 1)[None] for x in tensors] for a, b in ((0, middle), (middle, 9))
        ]
        expected = [reference(*part, causal=True) for part in parts]
        assert_exact([out], [torch.cat([x[0][0].transpose(0, 1) for x in expected])])
        loss = sum(x.sum() for pair in expected for x in pair)
        assert_exact(grads, torch.autograd.grad(loss, tensors))


def test_decode_and_merge():
    @torch.compile(**compiled)
    def run(q, k, v, lengths):
        return flash_decode(q, k, v, lengths=lengths, splits=3)

    q, k, v, *_ = inputs(2, 4, 2, 1, 9, 16)
    for lengths in ([9, 4], [1, 7]):
        expected = [
            reference(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n])[0]
            for b, n in enumerate(lengths)
        ]
        assert_exact([run(q, k, v, torch.tensor(lengths))], [torch.cat(expected)])
    outs, lses = torch.randn(3, 5, 2), torch.randn(3, 5)
    got = torch.compile(merge_partials, **compiled)(outs, lses)
    weights = lses.softmax(0)[..., None]
    assert_exact(got, [(weights * outs).sum(0), lses.logsumexp(0)], atol=1e-5)


SETTINGS = (None, 0, 0.25, "tiled")


def test_registration_of_the_dense_operators():
    q, k, v, w_out, w_lse = inputs(2, 4, 2, 5, 7, 16, dtype=torch.float32)
    out, lse = flash_attention(q, k, v, causal=True, return_lse=True)
    ops = torch.ops.companion
    leaves = [x.clone().requires_grad_() for x in (q, k.mT.contiguous().mT, v)]
    torch.library.opcheck(ops.flash_attention.default, (*leaves, *SETTINGS))
    halves = [x.half() for x in (q, k, v)]  # the log-sum-exp stays float32
    torch.library.opcheck(
        ops.flash_attention.default, (*halves, *SETTINGS), test_utils="test_faketensor"
    )
    for weight in (w_lse, None):
        args = (w_out, weight, q, k, v, out, lse, *SETTINGS)
        torch.library.opcheck(ops.flash_attention_backward.default, args)


def test_registration_of_the_packed_operators():
    q, k, v = (torch.randn(7, h, 16) for h in (4, 2, 2))
    offsets = torch.tensor([0, 2, 7])
    out, lse = flash_attention_varlen(
        q, k, v, q_offsets=offsets, k_offsets=offsets, causal=True, return_lse=True
    )
    ops = torch.ops.companion
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(
        ops.flash_attention_varlen.default, (*leaves, offsets, offsets, *SETTINGS)
    )
    args = (out, lse, q, k, v, offsets, offsets, out, lse, *SETTINGS)
    torch.library.opcheck(ops.flash_attention_varlen_backward.default, args)


def test_registration_of_decode():
    q, k, v = torch.randn(2, 4, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    for lengths in (None, torch.tensor([3, 9])):
        args = (q, k, v, lengths, 3, 0.25, "tiled")
        torch.library.opcheck(torch.ops.companion.flash_decode.default, args)
