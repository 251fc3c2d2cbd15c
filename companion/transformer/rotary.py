"""Rotary positions: queries and keys are turned by angles that grow with their position.

    (a, b) → (a cos pθᵢ − b sin pθᵢ,  b cos pθᵢ + a sin pθᵢ),    θᵢ = base^(−2i/D)

so that a score depends on the distance between query and key alone. Source: Su et al. 2021,
arXiv:2104.09864, §3.2; there number 2i is paired with 2i + 1, here i with i + D/2, as in the
weights of Llama that Hugging Face serves. Dimension key: D head width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from companion.transformer.config import TransformerConfig

__all__ = ["rotate", "rotation_at"]


def rotation_at(
    positions: Int[Tensor, "*B T"], config: TransformerConfig, *, dtype: torch.dtype
) -> tuple[Float[Tensor, "*B 1 T D/2"], Float[Tensor, "*B 1 T D/2"]]:
    """Cosines and sines for queries or keys of that dtype.

    They are of float64 for float64, else of float32: in bfloat16 position 257 would be 256.

    Example:
        >>> config = TransformerConfig(
        ...     vocabulary=2, width=4, layers=1, heads=1, hidden=1, max_length=2, rotary_base=100.0
        ... )
        >>> cos, sin = rotation_at(torch.tensor([0, 1]), config, dtype=torch.float32)
        >>> sin  # of 0, 0 and of 1, 0.1
        tensor([[[0.0000, 0.0000],
                 [0.8415, 0.0998]]])
    """
    wide = torch.promote_types(dtype, torch.float32)
    pairs = torch.arange(0, config.head_width, 2, dtype=wide, device=positions.device)
    frequencies = config.rotary_base ** (-pairs / config.head_width)
    angles = positions[..., None, :, None].to(wide) * frequencies
    return angles.cos(), angles.sin()


def rotate(
    x_BHTD: Float[Tensor, "B H T D"], rotation: tuple[Tensor, Tensor]
) -> Float[Tensor, "B H T D"]:
    """Queries or keys, turned; in their own dtype.

    Example:
        >>> quarter = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)  # cosine and sine of 90°
        >>> rotate(torch.tensor([[[[3.0, 5.0]]]]), quarter)
        tensor([[[[-5.,  3.]]]])
    """
    cos, sin = rotation
    a, b = x_BHTD.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x_BHTD.dtype)
