"""Self-attention whose inner function is passed in, and torch's as the default.

Dimension key: B batch, H query heads, G key heads, T queries, S keys, D width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from companion.transformer.cache import KVCache
from companion.transformer.config import TransformerConfig
from companion.transformer.linear import new_linear
from companion.transformer.rotary import rotate

__all__ = ["SelfAttention", "torch_attention"]


def torch_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "*B T S"] | None = None,
) -> Float[Tensor, "B H T D"]:
    """softmax(Q Kᵀ/√D) V by torch; query head h reads key head h ÷ (H ÷ G).

    Grouped heads: Ainslie et al. 2023, arXiv:2305.13245, §2.2.

    Args:
        causal: The last query meets the last key; earlier ones see as many keys fewer.
        mask: True where a query may see a key; not together with ``causal``.

    Example:
        >>> q, k = torch.zeros(1, 1, 2, 2), torch.eye(3)[None, None, :, :2]
        >>> torch_attention(q, k, torch.eye(3)[None, None], causal=True)[0, 0]
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
    """
    queries, keys = q.shape[2], k.shape[2]
    if causal and mask is not None:
        raise ValueError("mask: expected None where causal=True, got a mask")
    if causal and queries != keys:
        # torch's own causal mask lets the first query meet the first key.
        mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    causal, grouped = causal and mask is None, q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


class SelfAttention(nn.Module):
    """Attention of one layer: project, turn by position, attend, project back.

    Args:
        config: The sizes.
        attention: Called as ``attention(q, k, v, causal=True)`` or, where there is a mask, as
            ``attention(q, k, v, mask=mask)``; shapes, mask and alignment as ``torch_attention``.
            One that takes no mask, as ``companion.flash.flash_attention``, serves where none is
            given.
        generator: Source of the weights; torch's own unless told.
    """

    def __init__(
        self, config: TransformerConfig, *, attention: Callable, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        width, keys = config.width, config.key_heads * config.head_width
        self.head_width, self.attention = config.head_width, attention
        self.q_proj = new_linear(width, width, generator=generator)
        self.k_proj = new_linear(width, keys, generator=generator)
        self.v_proj = new_linear(width, keys, generator=generator)
        self.o_proj = new_linear(width, width, generator=generator, summands=2 * config.layers)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        rotation: tuple[Tensor, Tensor],
        *,
        mask: Bool[Tensor, "*B T S"] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "B T D"]:
        """What the positions read from one another and from the cache's entries of ``layer``."""
        q = rotate(self._by_head(self.q_proj(x_BTD)), rotation)
        k = rotate(self._by_head(self.k_proj(x_BTD)), rotation)
        v = self._by_head(self.v_proj(x_BTD))
        if cache is not None:
            k, v = cache.append(layer, k, v)
        seen = {"causal": True} if mask is None else {"mask": mask}
        return self.o_proj(self.attention(q, k, v, **seen).transpose(1, 2).flatten(2))

    def _by_head(self, x_BTD: Tensor) -> Float[Tensor, "B H T D"]:
        return x_BTD.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
