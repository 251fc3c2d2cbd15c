"""``tiled_attention``: the tiled passes as one function that autograd knows."""

from jaxtyping import Float
from torch import Tensor

from companion.checks import check_count
from companion.flash.checks import (
    autocasted,
    check_attention,
    check_flag,
    checked_scale,
    without_autocast,
)
from companion.flash.masks import Window, resolve_window
from companion.flash.operators import attention_function
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

    What ``flash_attention`` runs on a CPU, with the size of the tiles open to choice, for any D.
    The equations and their sources are in ``companion.flash.tiled``.
    Works under autocast and ``torch.func``, like ``flash_attention``, but not under
    ``torch.compile``.

    Args:
        q, k, v: One dtype and device, any strides; see ``flash_attention``.
        causal: Query i sees no key after position i + S − T.
        window: See ``companion.flash.masks.resolve_window``.
        scale: Multiplies the scores; 1/√D unless told.
        return_lse: Return the log-sum-exp too. It is differentiable.
        query_tile, key_tile: Queries (of each head) and keys of one tile. None chooses what is
            quick. The result does not depend on them, but for rounding.

    Returns:
        The output in the inputs' dtype; with ``return_lse``, also the natural logarithm of the
        normaliser, in float32 (float64 for float64). A query that sees no key gets 0 and −∞.

    Raises:
        TypeError, ValueError: An argument is not as above.
        RuntimeError, NotImplementedError: A second or a forward-mode derivative is asked for.

    Example:
        >>> import torch
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
    for name, tile in (("query_tile", query_tile), ("key_tile", key_tile)):
        if tile is not None:
            check_count(name, tile)
    seen = resolve_window(window, causal=causal)
    factor = checked_scale(scale, q.shape[-1])
    out, lse = _Attention.apply(q, k, v, seen.left, seen.right, factor, query_tile, key_tile)
    return (out, lse) if return_lse else out


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    left: int | None,
    right: int | None,
    scale: float,
    query_tile: int | None,
    key_tile: int | None,
) -> tuple[Tensor, Tensor]:
    tiles = {"query_tile": query_tile, "key_tile": key_tile}
    with without_autocast(q):  # the tiles choose their own precision
        return tiled_forward(q, k, v, window=Window(left, right), scale=scale, **tiles)


def _backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    left: int | None,
    right: int | None,
    scale: float,
    query_tile: int | None,
    key_tile: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (grad_out, grad_lse, q, k, v, out, lse)
    tiles = {"query_tile": query_tile, "key_tile": key_tile}
    with without_autocast(q):
        return tiled_backward(*tensors, window=Window(left, right), scale=scale, **tiles)


_Attention = attention_function("tiled_attention", _forward, _backward, fold_dim=0)
