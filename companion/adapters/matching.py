"""Find layers by the ends of their names, and put others in their place.

The rule is PEFT's: a target means each layer whose dotted name equals it or ends in a dot and it.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence

from torch import nn

__all__ = ["matching_layers", "replace_layers_"]


def matching_layers(
    model: nn.Module,
    targets: Sequence[str],
    *,
    accepts: Callable[[nn.Module], bool],
    expected: str,
    closed: type[nn.Module] | tuple[()] = (),
) -> dict[nn.Module, str]:
    """The layers that the targets mean, each with its first dotted name, in the model's order.

    Args:
        model: Any module; it is not one of its own layers.
        targets: Names or ends of names; each must match at least one layer that is accepted.
        accepts: Whether a layer is of the right kind; others of that name are passed over.
        expected: The right kind in words, for the messages.
        closed: Modules of this type are seen, what is inside them is not.

    Raises:
        TypeError: If ``targets`` is one string, or holds something else than strings.
        ValueError: If there are no targets, one matches nothing (the message names near misses) or
            only layers of other kinds, or a layer has a second name that no target matches.

    Example:
        >>> model = nn.ModuleDict({"up": nn.Linear(2, 3), "down": nn.Linear(3, 2)})
        >>> found = matching_layers(
        ...     model, ["down"], accepts=lambda m: type(m) is nn.Linear, expected="nn.Linear"
        ... )
        >>> list(found.values())
        ['down']
    """
    if isinstance(targets, str):
        raise TypeError(f"targets: expected a sequence of names, got one string: [{targets!r}]?")
    targets = list(targets)
    if wrong := [target for target in targets if not isinstance(target, str)]:
        raise TypeError(f"targets: expected names, got {wrong[0]!r}")
    if not targets:
        raise ValueError("targets: expected at least one name, got none")
    # A layer that two places share has two names.
    named = dict(model.named_modules(remove_duplicate=False))
    inside = tuple(f"{name}." for name, module in named.items() if isinstance(module, closed))
    modules = {name: m for name, m in named.items() if name and not name.startswith(inside)}
    chosen = set()
    for target in targets:
        matched = {name: m for name, m in modules.items() if _means(target, name)}
        accepted = {m for m in matched.values() if accepts(m)}
        if not matched:
            near = _near_misses(target, [name for name, m in modules.items() if accepts(m)])
            raise ValueError(
                f"targets: expected the name of a layer or its end, got {target!r}; {near}"
            )
        if not accepted:
            name, module = next(iter(matched.items()))
            raise ValueError(f"{name}: expected {expected}, got {type(module).__name__}")
        chosen |= accepted
    found: dict[nn.Module, str] = {}
    for name, module in modules.items():
        if module in chosen:
            found.setdefault(module, name)
            if not any(_means(target, name) for target in targets):
                raise ValueError(
                    f"{name}: expected to be a target too, since it is the same layer as "
                    f"{next(n for n, m in modules.items() if m is module and n != name)}; "
                    f"got targets {list(targets)}"
                )
    return found


def replace_layers_(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put ``new[layer]`` wherever the model holds ``layer``, under each of its names."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in new:
                setattr(parent, name, new[child])


def _means(target: str, name: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _near_misses(target: str, names: Sequence[str]) -> str:
    depth = target.count(".") + 1
    ends = sorted({".".join(name.split(".")[-depth:]) for name in names})
    near = difflib.get_close_matches(target, ends) or ends[:8]
    return f"near: {', '.join(near)}" if near else "the model has no layer of that kind"
