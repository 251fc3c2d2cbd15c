"""Random attention problems, their float64 answers, and how far a kernel may be from them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from companion.flash.masks import Window, resolve_window
from companion.flash.naive import naive_attention

__all__ = ["Problem", "answer", "assert_fair", "lse_of", "strided"]


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
    left, right = problem.resolved
    scores = problem.scale * q @ k.repeat_interleave(problem.H // problem.G, dim=1).mT
    position = torch.arange(problem.T, device=q.device)[:, None] + problem.S - problem.T
    key = torch.arange(problem.S, device=q.device)[None]
    hidden = torch.zeros(problem.T, problem.S, dtype=torch.bool, device=q.device)
    hidden |= False if left is None else key < position - left
    hidden |= False if right is None else key > position + right
    return scores.masked_fill(hidden, -math.inf).logsumexp(dim=-1)


def assert_fair(ours: Tensor, low: Tensor, exact: Tensor, *, times: float) -> None:
    """Our largest error against at most `times` that of the same-precision reference."""
    assert ours.shape == exact.shape
    assert torch.equal(ours.isfinite(), exact.isfinite()), "finite where it should not be, or not"
    finite = exact.isfinite()
    error = (ours.double() - exact)[finite].abs().max() if finite.any() else torch.tensor(0.0)
    allowed = (low.double() - exact)[finite].abs().max() if finite.any() else torch.tensor(0.0)
    # What one rounding of the largest number costs, for answers the reference hits exactly.
    size = exact[finite].abs().max() if finite.any() else torch.tensor(0.0)
    dtype = ours.dtype if ours.dtype == low.dtype else low.dtype
    atol = 2 * torch.finfo(dtype).eps * size + 1e-6
    assert error <= times * allowed + atol, f"error {error:.3g}, reference's {allowed:.3g}"


def strided(x: Tensor) -> Tensor:
    """The same numbers with rows, heads and columns in another order, and gaps between them."""
    room = x.new_full((*(2 * n for n in x.shape[::-1]),), math.nan)
    view = room.permute(3, 2, 1, 0)[: x.shape[0], : x.shape[1], : x.shape[2], : x.shape[3]]
    view = view.as_strided(x.shape, (view.stride(0), *(2 * s for s in view.stride()[1:])))
    view.copy_(x)
    return view
