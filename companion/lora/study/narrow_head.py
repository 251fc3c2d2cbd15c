"""A model that may only say the words of one task: a head with a few hundred rows.

A head with one row for each of 49,152 tokens takes most of the time of a short run on the last
layers. In a comparison of runs on one task the rows of all other tokens can go. The loss is then
that of a choice among the task's tokens, and smaller than the model's own.
Chapter: course/07_lora.ipynb.  Dimension key: B sequences, T tokens, V kept tokens.
"""

from collections.abc import Sequence

import torch
from torch import nn

from companion.language.records import NO_LABEL
from companion.language.upper_layers import StoredBatch

__all__ = ["narrow_head_"]


def narrow_head_(upper: nn.Module, *sets: Sequence[StoredBatch]) -> list[list[StoredBatch]]:
    """Keep of the head only the tokens that some label asks for, and renumber the labels.

    Args:
        upper: From ``upper_layers``; it gets a new frozen head, and loses its table of embeddings,
            which stored states do not pass through: a copy of it is then small. The model that it
            came from keeps both.
        sets: Groups of batches, such as training and held-out ones.

    Returns:
        The groups, their labels counted among the kept tokens in the old order.
    """
    labels = torch.cat([batch.labels_BT.flatten() for group in sets for batch in group])
    kept_V = labels[labels != NO_LABEL].unique()
    new_number = torch.full((len(upper.lm_head.weight),), NO_LABEL)
    new_number[kept_V] = torch.arange(len(kept_V))
    head = nn.Linear(upper.lm_head.in_features, len(kept_V), bias=False)
    head.weight = nn.Parameter(upper.lm_head.weight.detach()[kept_V], requires_grad=False)
    upper.lm_head = head
    upper.model.embed_tokens = nn.Identity()
    return [
        [
            batch._replace(
                labels_BT=batch.labels_BT.where(
                    batch.labels_BT == NO_LABEL, new_number[batch.labels_BT.clamp(min=0)]
                )
            )
            for batch in group
        ]
        for group in sets
    ]
