"""`tiled_attention`: the tiled passes as one function that autograd knows."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from companion.flash.arguments import autocasted, check_attention, check_flag, checked_scale
from companion.flash.masks import resolve_window
from companion.flash.operators import NO_FORWARD_MODE, NO_SECOND_DERIVATIVE
from companion.flash.tiled import tiled_backward, tiled_forward

__all__ = ["tiled_attention"]


def tiled_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    query_tile: int | None = None,
    key_tile: int | None = None,
) -> Float[Tensor, "B H T D"] | tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """Attention in plain PyTorch, in one pass over the keys and with memory linear in T and S.

    What `flash_attention` runs on a CPU, with the size of the tiles open to choice, for any D.
    The equations and their sources are in `companion.flash.tiled`.

    Args:
        q, k, v: One dtype and device, any strides; see `flash_attention`.
        causal: Query i sees no key after position i + S − T.
        window: See `companion.flash.masks.resolve_window`.
        scale: Multiplies the scores; 1/√D unless told.
        return_lse: Return the log-sum-exp too. It is differentiable.
        query_tile, key_tile: Queries (of each head) and keys of one tile. None chooses what is
            quick. The result does not depend on them, but for rounding.

    Returns:
        The output in the inputs' dtype; with `return_lse`, also the natural logarithm of the
        normaliser, in float32 (float64 for float64). A query that sees no key gets 0 and −∞.

    Raises:
        TypeError, ValueError: An argument is not as above.
        RuntimeError, NotImplementedError: A second or a forward-mode derivative is asked for.

    Example:
        >>> q = k = torch.eye(3)[None, None]
        >>> out = tiled_attention(q, k, k, causal=True, scale=1.0, query_tile=2, key_tile=1)
        >>> out[0, 0]
        tensor([[1.0000, 0.0000, 0.0000],
                [0.2689, 0.7311, 0.0000],
                [0.2119, 0.2119, 0.5761]])
    """
    q, k, v = autocasted(q, k, v)
    check_attention(q, k, v, q_dims="B H T D", k_dims="B G S D")
    for name, flag in (("causal", causal), ("return_lse", return_lse)):
        check_flag(name, flag)
    settings = {
        "window": resolve_window(window, causal=causal),
        "scale": checked_scale(scale, q.shape[-1]),
        "query_tile": _checked_tile("query_tile", query_tile),
        "key_tile": _checked_tile("key_tile", key_tile),
    }
    out, lse = _TiledAttention.apply(q, k, v, settings)
    return (out, lse) if return_lse else out


class _TiledAttention(Function):
    """The forward pass; out and lse are all that the backward needs besides the inputs."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, settings: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        out, lse = tiled_forward(q, k, v, **settings)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(saved[3])
        return *_TiledBackward.apply(grad_out, grad_lse, *saved, ctx.settings), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        raise NotImplementedError(NO_FORWARD_MODE)


class _TiledBackward(Function):
    """The backward pass, as a Function too: a plain call would make a second derivative wrong."""

    @staticmethod
    def forward(
        ctx: Any, grad_out: Tensor, grad_lse: Tensor | None, *saved_and_settings: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        *saved, settings = saved_and_settings
        # Autocast may be on where `backward` is called; the tiles choose their own precision.
        with torch.autocast(grad_out.device.type, enabled=False):
            return tiled_backward(grad_out, grad_lse, *saved, **settings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(NO_SECOND_DERIVATIVE)


def _checked_tile(name: str, size: int | None) -> int | None:
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"{name}: expected an int or None, got {size!r}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    return size
