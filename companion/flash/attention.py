"""FlashAttention: exact attention whose memory grows with the length, not with its square.

    O = softmax(scale · Q Kᵀ + mask) V,    lse_i = log Σ_j exp(score_ij)

computed a tile of keys at a time, by Triton kernels on a GPU and tiled PyTorch on a CPU.

Sources: Dao et al. 2022 (arXiv:2205.14135); Dao 2023 (arXiv:2307.08691).
Chapter: course/09_flash.ipynb.  Dimension key: B batch, H query heads, G key heads, T queries,
S keys, D head width.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from companion.flash.backend import chosen_backend
from companion.flash.checks import (
    autocasted,
    check_attention,
    check_flag,
    check_width,
    checked_scale,
    without_autocast,
)
from companion.flash.masks import Window, resolve_window
from companion.flash.naive import naive_forward
from companion.flash.operators import attention_operator
from companion.flash.tiled import tiled_backward, tiled_forward

__all__ = ["flash_attention"]


def flash_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    deterministic: bool = True,
) -> Float[Tensor, "B H T D"] | tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """softmax(scale · Q Kᵀ) V and its gradients, with O(N) memory.

    The backward pass recomputes the weights from the log-sum-exp (Dao et al. 2022, §3.1), in one
    pass for dQ and one for dK and dV, so that no sum depends on the order in which threads run.
    Works under ``torch.compile``, autocast, ``torch.vmap``, ``torch.func.grad``, ``vjp`` and
    ``jacrev``; forward-mode and second derivatives are refused. Where we differ from the authors'
    library: any strides, and a gradient for the log-sum-exp.

    Args:
        q, k, v: Queries, keys and values: one dtype (float16, bfloat16, float32 or float64), one
            device, any strides. G divides H: query head h reads key head h ÷ (H ÷ G). D is in
            [16, 256]; T and S are at least 1.
        causal: Query i sees no key after its own position i + S − T: the last query meets the
            last key, also when T ≠ S.
        window: Keys around its position that a query sees: w for |p − j| < w, or (left, right);
            see ``companion.flash.masks.resolve_window``.
        scale: Multiplies the scores; 1/√D unless told.
        return_lse: Return the log-sum-exp too. It is differentiable.
        deterministic: False permits other orders of summation. Every back end here gives the same
            bits each time either way.

    Returns:
        The output, contiguous, in the inputs' dtype; with ``return_lse``, also the natural
        logarithm of the normaliser, in float32 (float64 for float64). A query that sees no key
        gets 0 and −inf, and passes no gradient.

    Raises:
        TypeError, ValueError: An argument is not as above.
        RuntimeError: The back end cannot run here; see ``attention_backend``.

    Example:
        >>> import torch
        >>> q = k = torch.eye(16)[None, None, :2]
        >>> out, lse = flash_attention(q, k, k, causal=True, scale=1.0, return_lse=True)
        >>> out[0, 0, :, :2]
        tensor([[1.0000, 0.0000],
                [0.2689, 0.7311]])
        >>> lse  # log e, log(1 + e)
        tensor([[[1.0000, 1.3133]]])
    """
    q, k, v = autocasted(q, k, v)
    check_attention(q, k, v, q_dims="B H T D", k_dims="B G S D")
    check_width(q)
    for name, flag in (
        ("causal", causal),
        ("return_lse", return_lse),
        ("deterministic", deterministic),
    ):
        check_flag(name, flag)
    seen = resolve_window(window, causal=causal)
    factor = checked_scale(scale, q.shape[-1])
    backend = chosen_backend(q.device.type, q.dtype)
    if backend == "naive":
        # Plain operations: autograd differentiates them, as often as one likes.
        out, lse = naive_forward(q, k, v, window=seen, scale=factor)
    else:
        out, lse = _attention(q, k, v, seen.left, seen.right, factor, backend)
    return (out, lse) if return_lse else out


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    left: int | None,
    right: int | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    run, _ = _passes(backend)
    with without_autocast(q):  # the tiles choose their own precision
        out, lse = run(q, k, v, window=Window(left, right), scale=scale)
    return out.contiguous(), lse.contiguous()


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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    _, run = _passes(backend)
    with without_autocast(q):
        dq, dk, dv = run(
            grad_out, grad_lse, q, k, v, out, lse, window=Window(left, right), scale=scale
        )
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


def _passes(backend: str) -> tuple[Callable, Callable]:
    if backend == "triton":
        # Imported here: most machines that read this chapter have no use for Triton.
        from companion.flash.triton.launch import triton_backward, triton_forward

        return triton_forward, triton_backward
    return tiled_forward, tiled_backward


_attention = attention_operator("flash_attention", _forward, _backward, fold_dim=0)
