"""What the front's tests compare with: the chapter's formulas in float64, written out again."""

import math

import pytest
import torch

from companion.flash import naive_attention


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


def assert_as_good_as_naive(got, expected, naive):
    """At most twice naive's own error, thrice for gradients: the flash-attn repository's rule."""
    names, allowed = ("out", "lse", "dq", "dk", "dv"), (2, 2, 3, 3, 3)
    for name, factor, mine, exact, plain in zip(names, allowed, got, expected, naive, strict=True):
        exact = exact.masked_fill(exact == -math.inf, 0.0)
        rounding = 2 * torch.finfo(mine.dtype).eps * exact.abs().max()
        errors = [
            (x.double().masked_fill(x == -math.inf, 0.0) - exact).abs().max() for x in (mine, plain)
        ]
        assert errors[0] <= factor * errors[1] + rounding, name
        assert not mine.isnan().any()


def naive_pair(q, k, v, **settings):
    """naive_attention in the inputs' own dtype, and its log-sum-exp, by plain operations."""
    scores_lse = reference(q, k, v, **settings)[1]
    return naive_attention(q, k, v, **settings), scores_lse.float()


def triton_runs_on_cpu():
    """Whether the kernels of this process are interpreted."""
    try:
        from companion.flash.triton_attention import is_interpreted
    except ImportError:
        return False
    return is_interpreted()


INTERPRETED = pytest.mark.skipif(not triton_runs_on_cpu(), reason="Triton is not interpreted here")
