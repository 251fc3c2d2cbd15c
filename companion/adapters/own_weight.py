"""Layers whose weight is not theirs to change: something makes it anew at every call."""

from torch import nn
from torch.nn.utils import parametrize

__all__ = ["check_own_weight"]


def check_own_weight(layer: nn.Module) -> None:
    """Refuse a layer with a weight that is no parameter of its own.

    Pruning, weight norm, spectral norm and every other parametrization compute ``layer.weight``
    from other parameters. What is written into it is lost, or stands for one call. A layer whose
    class makes its weight, as a quantised one does, knows why.

    Raises:
        ValueError: In that case.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
        >>> check_own_weight(layer)
        Traceback (most recent call last):
        ...
        ValueError: expected a layer with a weight of its own, got one that is made from others at \
every call: make it lasting first, by torch.nn.utils.parametrize.remove_parametrizations or \
torch.nn.utils.prune.remove
    """
    by_its_class = isinstance(getattr(type(layer), "weight", None), property)
    is_own = by_its_class and not parametrize.is_parametrized(layer, "weight")
    if hasattr(layer, "weight") and layer._parameters.get("weight") is None and not is_own:
        raise ValueError(
            "expected a layer with a weight of its own, got one that is made from others at every "
            "call: make it lasting first, by torch.nn.utils.parametrize.remove_parametrizations "
            "or torch.nn.utils.prune.remove"
        )
