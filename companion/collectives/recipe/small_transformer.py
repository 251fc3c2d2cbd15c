"""A causal language model over bytes, small enough for a laptop's processor.

Chapter: course/11_collectives.ipynb.  Dimension key: B batch, T tokens, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn

__all__ = ["SmallTransformer"]


class SmallTransformer(nn.Module):
    """Pre-norm decoder blocks of ``torch.nn``; the scores of the next byte at every place.

    Args:
        vocabulary: V, 256 for bytes.
        context: The most tokens of a sequence.
        width: D, a multiple of ``heads``.
        layers: Blocks.
        heads: Of the attention.

    Example:
        >>> model = SmallTransformer()
        >>> scores_BTV = model(torch.zeros(2, 7, dtype=torch.int64))
        >>> tuple(scores_BTV.shape), sum(p.numel() for p in model.parameters())
        ((2, 7, 256), 137216)
    """

    def __init__(
        self,
        *,
        vocabulary: int = 256,
        context: int = 64,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(context, width)
        block = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        # Nested tensors, which a pre-norm block cannot use, would only be warned of.
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), False)
        self.scores = nn.Linear(width, vocabulary)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Scores ``[B, T, V]``; those at place t depend on tokens 0 … t alone."""
        length = tokens_BT.shape[1]
        places_T = torch.arange(length, device=tokens_BT.device)
        x_BTD = self.token(tokens_BT) + self.place(places_T)
        ahead_TT = places_T[:, None] < places_T  # True is hidden
        return self.scores(self.blocks(x_BTD, mask=ahead_TT, is_causal=True))
