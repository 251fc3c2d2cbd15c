"""What the front's tests compare with: the chapter's formulas in float64, written out again."""

import math

import pytest
import torch

from tests.flash.error_bounds import NAMES, assert_within, attention_bounds


def inputs(b, h, g, t, s, d, *, dtype=torch.float64, device="cpu", seed=0):
    """q, k, v and two weights, of the output and of the log-sum-exp, that make a scalar loss."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(b, h, t, d), (b, g, s, d), (b, g, s, d), (b, h, t, d), (b, h, t)]
    drawn = [torch.randn(x, generator=generator, dtype=torch.float64) for x in shapes]
    return [x.to(device, dtype) for x in drawn]


def seen_TS(t, s, *, causal=False, window=None):
    """By the words of the convention: how far ahead of the query's position a key lies."""
    ahead_TS = torch.arange(s)[None, :] - (torch.arange(t)[:, None] + s - t)
    seen = torch.ones(t, s, dtype=torch.bool)
    if causal:
        seen &= ahead_TS <= 0
    if isinstance(window, int):
        seen &= ahead_TS.abs() < window
    elif window is not None:
        left, right = (math.inf if side in (None, -1) else side for side in window)
        seen &= (ahead_TS >= -left) & (ahead_TS <= right)
    return seen


def reference(q, k, v, *, causal=False, window=None, scale=None):
    """Output and log-sum-exp in float64, differentiable; 0 and −inf where nothing is seen."""
    q, k, v = (x.double() for x in (q, k, v))
    seen = seen_TS(q.shape[2], k.shape[2], causal=causal, window=window).to(q.device)
    rows = seen.any(dim=1)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("bhtd,bhsd->bhts", q[:, :, rows], k)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores.masked_fill(~seen[rows], -math.inf)
    out, lse = torch.zeros_like(q), torch.full_like(q[..., 0], -math.inf)
    out = out.index_copy(2, rows.nonzero()[:, 0], scores.softmax(-1) @ v)
    return out, lse.index_copy(2, rows.nonzero()[:, 0], scores.logsumexp(-1))


def gradients(run, q, k, v, w_out, w_lse):
    """Output, log-sum-exp and the gradients of a loss that reads both (−inf is left out)."""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out, lse = run(*leaves)
    loss = (out * w_out).sum().double() + (lse * w_lse)[lse > -math.inf].sum()
    return [x.detach() for x in (out, lse, *torch.autograd.grad(loss, leaves))]


def assert_exact(got, expected, *, atol=1e-11):
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs.to(mine.dtype), atol=atol, rtol=1e-10)


def assert_precise(got, tensors, *, scale=None, **mask):
    """What `gradients` gave is within what the inputs' dtype allows, number by number."""
    q, k, *_ = tensors
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    seen = seen_TS(q.shape[2], k.shape[2], **mask).to(q.device)
    exact = gradients(lambda *x: reference(*x, scale=scale, **mask), *tensors)
    bounds = attention_bounds(*tensors, seen_TS=seen, scale=scale)
    for name, mine, truth, bound in zip(NAMES, got, exact, bounds, strict=True):
        assert_within(name, mine, truth, bound)


def triton_runs_on_cpu():
    """Whether the kernels of this process are interpreted."""
    try:
        from companion.flash.triton.launch import is_interpreted
    except ImportError:
        return False
    return is_interpreted()


INTERPRETED = pytest.mark.skipif(not triton_runs_on_cpu(), reason="Triton is not interpreted here")
