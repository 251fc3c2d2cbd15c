"""Random attention problems, their float64 answers, and tensors with unusual strides."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from companion.flash.masks import Window, resolve_window
from companion.flash.naive import naive_attention
from tests.flash.error_bounds import NAMES, assert_within, attention_bounds
from tests.flash.front_oracle import seen_TS

__all__ = ["Problem", "answer", "assert_right", "lse_of", "strided"]


class Problem(NamedTuple):
    """Shapes, as in the dimension key, and what a query sees."""

    B: int = 1
    H: int = 1
    G: int = 1
    T: int = 17
    S: int = 17
    D: int = 16
    causal: bool = False
    window: int | tuple[int | None, int | None] | None = None

    @property
    def resolved(self) -> Window:
        return resolve_window(self.window, causal=self.causal)

    def seen(self, device: torch.device) -> Tensor:
        return seen_TS(self.T, self.S, causal=self.causal, window=self.window).to(device)

    @property
    def scale(self) -> float:
        return 1.3 / math.sqrt(self.D)

    def inputs(self, dtype: torch.dtype, device: str, seed: int = 0) -> list[Tensor]:
        """q, k, v, dO and dL; larger than normal, so that the weights are far from equal."""
        random = torch.Generator().manual_seed(seed)
        shapes = [(self.H, self.T), (self.G, self.S), (self.G, self.S), (self.H, self.T)]
        tensors = [torch.randn(self.B, *s, self.D, generator=random) for s in shapes]
        tensors[0] *= 2
        grad_lse = torch.randn(self.B, self.H, self.T, generator=random)
        return [x.to(device, dtype) for x in tensors] + [grad_lse.to(device)]


def answer(problem: Problem, q, k, v, grad_out, grad_lse) -> list[Tensor]:
    """out, lse, dq, dk and dv by naive_attention and autograd, in the dtype of the inputs."""
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    rules = {"causal": problem.causal, "window": problem.window, "scale": problem.scale}
    out = naive_attention(q, k, v, **rules)
    lse = lse_of(problem, q, k)
    seen = lse.isfinite()
    loss = (out * grad_out).sum() + (lse[seen] * grad_lse.to(lse.dtype)[seen]).sum()
    return [x.detach() for x in (out, lse, *torch.autograd.grad(loss, (q, k, v)))]


def lse_of(problem: Problem, q: Tensor, k: Tensor) -> Tensor:
    """log Σ exp over the visible scores, by a boolean matrix written out here."""
    scores = problem.scale * q @ k.repeat_interleave(problem.H // problem.G, dim=1).mT
    return scores.masked_fill(~problem.seen(q.device), -math.inf).logsumexp(dim=-1)


def assert_right(problem: Problem, found: list[Tensor], inputs: list[Tensor]) -> None:
    """out, lse, dq, dk and dv (or the first of them) are those of the inputs, within the bounds."""
    exact = answer(problem, *(x.double() for x in inputs))
    bounds = attention_bounds(*inputs, seen_TS=problem.seen(inputs[0].device), scale=problem.scale)
    for name, mine, truth, bound in zip(NAMES, found, exact, bounds, strict=False):
        assert_within(name, mine, truth, bound)


def strided(x: Tensor) -> Tensor:
    """The same numbers with rows, heads and columns in another order, and gaps between them."""
    room = x.new_full((*(2 * n for n in x.shape[::-1]),), math.nan)
    view = room.permute(3, 2, 1, 0)[: x.shape[0], : x.shape[1], : x.shape[2], : x.shape[3]]
    view = view.as_strided(x.shape, (view.stride(0), *(2 * s for s in view.stride()[1:])))
    view.copy_(x)
    return view
