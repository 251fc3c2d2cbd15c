"""Weights that several layers share, such as a language model's embedding and its last layer."""

from collections import Counter

from torch import nn

__all__ = ["declare_untied_", "shared_parameters"]


def shared_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that more than one module of the model holds.

    Example:
        >>> table, head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        >>> head.weight = table.weight
        >>> shared_parameters(nn.Sequential(table, head)) == {table.weight}
        True
    """
    held = Counter(p for module in model.modules() for p in module.parameters(recurse=False))
    return {parameter for parameter, holders in held.items() if holders > 1}


def declare_untied_(model: nn.Module) -> bool:
    """Set ``model.config.tie_word_embeddings`` to False; returns whether it was True.

    Else transformers would tie the two weights again when it next loads the model.
    """
    config = getattr(model, "config", None)
    was_tied = bool(getattr(config, "tie_word_embeddings", False))
    if was_tied:
        config.tie_word_embeddings = False
    return was_tied
