"""How far attention in low precision may be from the exact answer: a bound for every number.

Derived, not observed, so that it holds with any order of summation and on any processor. With u
half the dtype's epsilon and w that of float32 (float64 for float64), to first order and against
the worst case (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1: a sum of n
products errs by at most n·w times the sum of their sizes):

    a = |scale| · |q| |k|ᵀ           what enters a score;  its error ≤ (D + few) w a
    p = exp(s − L)                   relative error ρ ≤ w ((D + few)(a + max a) + S + few) + u
    out = p v                        p (ρ + S w) |v| + u |out|
    dv = pᵀ dO                       pᵀ (ρ + T w) |dO| + u |dv|
    dS = p ∘ (dO vᵀ − Δ)             ρ |dS| + p (D w |dO| |v|ᵀ + error of Δ) + u |dS|
    dq = scale · dS k                scale · (error of dS + S w |dS|) |k| + u |dq|;  dk likewise

One u in ρ and one in dS: the weights enter their products rounded to the inputs' dtype. Float16
adds its smallest number wherever it rounds, for what it rounds to zero.
"""

import math

import torch
from torch import Tensor

__all__ = ["NAMES", "assert_within", "attention_bounds"]

NAMES = ("out", "lse", "dq", "dk", "dv")
FEW = 12  # roundings of a number on its way: scaled by s and log2 e, exp2, rescaled, divided


def attention_bounds(q, k, v, grad_out, grad_lse, *, seen_TS, scale) -> list[Tensor]:
    """Largest error of out, lse, dq, dk and dv, each shaped as what it bounds, in float64."""
    dtype, (S, D) = q.dtype, k.shape[2:]
    u, w = torch.finfo(dtype).eps / 2, torch.finfo(torch.float64).eps / 2
    if dtype != torch.float64:
        w = torch.finfo(torch.float32).eps / 2
    tiny = torch.finfo(dtype).smallest_normal * u  # half of the smallest number above zero
    group = q.shape[1] // k.shape[1]
    q, k, v, grad_out, grad_lse = (x.double() for x in (q, k, v, grad_out, grad_lse))
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    T = q.shape[2] * group  # the query heads of a group add up in dk and dv

    rows = seen_TS.any(dim=1)
    s = (scale * q @ k.mT).masked_fill(~seen_TS, -math.inf)
    p = s.softmax(-1).masked_fill(~rows[:, None], 0.0)
    a = (abs(scale) * q.abs() @ k.abs().mT).masked_fill(~seen_TS, 0.0)
    largest = a.amax(-1, keepdim=True) if S else a.new_zeros(*a.shape[:-1], 1)
    score = w * (D + FEW) * largest
    rho = w * ((D + FEW) * (a + largest) + S + FEW) + u

    out = p @ v
    out_error = (p * (rho + S * w) + tiny) @ v.abs() + u * out.abs() + tiny
    lse = s.logsumexp(-1).masked_fill(~rows, 0.0)
    lse_error = score.squeeze(-1) + w * (S + FEW + 2 * lse.abs())

    grad_lse = grad_lse.masked_fill(~rows, 0.0)
    sizes = grad_out.abs() @ v.abs().mT
    delta = (out * grad_out).sum(-1) - grad_lse
    delta_error = (out_error * grad_out.abs()).sum(-1)
    delta_error += w * ((D + 2) * (out * grad_out).abs().sum(-1) + 2 * grad_lse.abs())
    ds = p * (grad_out @ v.mT - delta[..., None])
    ds_error = rho * ds.abs() + p * (w * (D + 2) * sizes + delta_error[..., None]) + u * ds.abs()
    ds_error += tiny * seen_TS

    dq = abs(scale) * (ds_error + w * (S + FEW) * ds.abs()) @ k.abs()
    dk = abs(scale) * (ds_error + w * (T + FEW) * ds.abs()).mT @ q.abs()
    dv = (p * (rho + w * T) + tiny * seen_TS).mT @ grad_out.abs()
    dk_exact, dv_exact = (scale * ds.mT @ q), p.mT @ grad_out
    dk, dv, dk_exact, dv_exact = (
        x.unflatten(1, (-1, group)).sum(2) for x in (dk, dv, dk_exact, dv_exact)
    )
    dq += u * (scale * ds @ k).abs() + tiny
    return [
        out_error,
        lse_error,
        dq,
        dk + u * dk_exact.abs() + tiny,
        dv + u * dv_exact.abs() + tiny,
    ]


def assert_within(name: str, found: Tensor, exact: Tensor, bound: Tensor) -> None:
    """Every number within its own bound; infinite exactly where the exact answer is."""
    assert found.shape == exact.shape == bound.shape, name
    finite = exact.isfinite()
    assert torch.equal(found.isfinite(), finite), f"{name}: finite where it should not be, or not"
    assert torch.equal(found[~finite].double(), exact[~finite].double()), name
    error = (found.double() - exact)[finite].abs()
    times = (error / bound[finite].clamp_min(1e-300)).max() if error.numel() else 0.0
    assert times <= 1, f"{name}: error {error.max():.3g}, up to {times:.3g} times what is allowed"
