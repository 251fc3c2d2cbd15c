"""Low-rank adaptation of a frozen embedding table.

    y = W[token] + s · (B A[:, token]),    A = 0 at initialisation

Source: Hu et al. 2021, arXiv:2106.09685, §4.1, as the authors' code applies it to embeddings.
Chapter: course/07_lora.ipynb.  Dimension key: V vocabulary, D width, R rank.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from companion.lora.layer import LoRALayer, drawn, wide_dtype
from companion.lora.low_rank import lora_delta

__all__ = ["LoRAEmbedding", "is_embedding"]


class LoRAEmbedding(LoRALayer):
    """A frozen embedding plus a trainable rank-R update of its table.

        y = base(token) + s · A[:, token]ᵀ Bᵀ

    Here A is zero and B is standard normal, the rule of ``nn.Embedding``: A is looked up, so its
    columns are embeddings of width R, and B maps them to width D. The base's ``padding_idx`` and
    ``scale_grad_by_freq`` hold for A too: the padding token's column gets no gradient.

    Source: the code of Hu et al. 2021, arXiv:2106.09685. Difference from PEFT, whose embeddings
    ignore dropout: a token is a one-hot input, so dropout leaves out a token's whole update.

    Args:
        base: ``nn.Embedding`` without ``max_norm``; frozen in place.
        rank: R, with 1 <= R <= min(V, D).
        alpha: Numerator of the scale (dimensionless), > 0.
        dropout: Probability, in [0, 1), with which a token's update is left out in training.
        scaling: "alpha/r" or "alpha/sqrt(r)".
        generator: Source of B, on its own device; None is torch's default.

    Raises:
        TypeError: If the base is another kind of layer.
        ValueError: If a setting is out of its range, or the base has a ``max_norm``.

    Example:
        >>> layer = LoRAEmbedding(nn.Embedding(11, 5), rank=2, alpha=4.0)
        >>> layer.a_RV.shape, layer.b_DR.shape
        (torch.Size([2, 11]), torch.Size([5, 2]))
    """

    a_RV: nn.Parameter
    b_DR: nn.Parameter

    @staticmethod
    def update_shape(base: nn.Module, rank: int) -> tuple[int, int]:
        """(D, V)."""
        if not is_embedding(base):
            raise TypeError(f"base: expected nn.Embedding, got {type(base).__name__}")
        if base.max_norm is not None:
            raise ValueError(
                f"base: expected max_norm=None, got {base.max_norm}: looking up would rescale the "
                "frozen rows in place, and the rows of a merged table differently"
            )
        return base.embedding_dim, base.num_embeddings

    def add_factors(self, generator: torch.Generator | None) -> None:
        """B is random, A zero."""
        self.embedding_dim, self.num_embeddings = self.update_shape(self.base, self.rank)
        self.padding_idx = self.base.padding_idx
        shape_DR = (self.embedding_dim, self.rank)
        b_DR = drawn(shape_DR, self.base.weight, bound=None, generator=generator)
        self.a_RV = nn.Parameter(b_DR.new_zeros(self.rank, self.num_embeddings))
        self.b_DR = b_DR

    def forward(self, token: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
        """Adapted embeddings, in the dtype that the base returns."""
        if self.is_merged:
            return self.merged_forward(token)
        y = self.base(token)
        low = F.embedding(
            token,
            self.a_RV.T,
            padding_idx=self.base.padding_idx,
            scale_grad_by_freq=self.base.scale_grad_by_freq,
        )
        if self.training and self.dropout > 0:
            low = low * self.drop(low.new_ones(*token.shape, 1))
        return (y + F.linear(low, self.scale * self.b_DR)).to(y.dtype)

    def delta(self) -> Float[Tensor, "V D"]:
        """The dense update s·(B·A)ᵀ, in float32 (float64 where the adapter is)."""
        dtype = wide_dtype(self.b_DR.dtype)
        return lora_delta(self.a_RV.to(dtype), self.b_DR.to(dtype), scale=self.scale).T

    def merged_weight(self) -> Float[Tensor, "V D"]:
        """W + s·(B·A)ᵀ, before it is rounded to the base's dtype."""
        return self.base.weight + self.delta()


def is_embedding(module: nn.Module) -> bool:
    """Whether the module is an ``nn.Embedding`` that looks its rows up and does no more."""
    plain = type(module).forward is nn.Embedding.forward
    return plain and not parametrize.is_parametrized(module)
