"""Put LoRA layers into any model, find them, and take them out again.

Chapter: course/07_lora.ipynb.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import torch
from torch import nn

from companion.lora.convolution import LoRAConv2d, is_conv2d
from companion.lora.dora import DoRALinear
from companion.lora.embedding import LoRAEmbedding, is_embedding
from companion.lora.initialisation import init_pissa_
from companion.lora.layer import LoRALayer, Variant
from companion.lora.linear import LoRALinear, is_linear
from companion.lora.tied_weights import declare_untied_, shared_parameters

__all__ = ["add_lora", "lora_layers", "lora_parameters", "remove_lora_"]

_SUPPORTED = "nn.Linear, Conv1D, QuantizedLinear, nn.Embedding or nn.Conv2d"


def add_lora(
    model: nn.Module,
    *,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    variant: Variant = "lora",
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Freeze a model and put LoRA layers in the place of some of its layers, in place.

    A target names the layers whose dotted name equals it or ends with it after a dot: ``"q_proj"``
    means every layer of that name, ``"layers.0.self_attn.q_proj"`` one of them. Adapters that the
    model has already stay as they are and go on training.

    Args:
        model: Any module.
        targets: Names; each must match at least one layer that can be adapted.
        rank: R of every update.
        alpha: Numerator of the scale (dimensionless): s = alpha / R, for "rslora" alpha / √R.
        variant: "lora"; "rslora"; "dora" or "pissa", which adapt linear layers alone.
        dropout: Probability with which an input of an update is zeroed in training.
        generator: Source of the random factors, layer after layer in the model's order.

    Returns:
        The same model. It is unchanged if anything is refused.

    Raises:
        TypeError: If ``targets`` is one string.
        ValueError: If a target matches nothing that can be adapted (the message names near
            misses), a layer is adapted already, or a layer refuses the settings.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> model = add_lora(model, targets=["0"], rank=2, alpha=4.0)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['0.a_RI', '0.b_OR']
    """
    if variant not in get_args(Variant):
        raise ValueError(f"variant: expected one of {get_args(Variant)}, got {variant!r}")
    bases = _matches(model, targets)
    settings = {"rank": rank, "alpha": alpha, "dropout": dropout, "generator": generator}
    flags = {p: p.requires_grad for p in model.parameters()}
    weights = {base: base.weight for base in bases if hasattr(base, "weight")}
    is_tied = not shared_parameters(model).isdisjoint(weights.values())
    try:
        layers = {base: _adapted(base, name, variant, settings) for base, name in bases.items()}
    except BaseException:
        for base, weight in weights.items():
            base.weight = weight
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        raise
    if variant == "pissa" and is_tied:  # the residuals are weights of their own
        declare_untied_(model)
    earlier = set(lora_parameters(model))
    for parameter in model.parameters():
        if parameter not in earlier:
            parameter.requires_grad_(False)
    _replace_(model, layers)
    return model


def lora_layers(model: nn.Module) -> dict[str, LoRALayer]:
    """The model's LoRA layers by their dotted names, in the model's order.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> list(lora_layers(add_lora(model, targets=["2"], rank=1, alpha=1.0)))
        ['2']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALayer)}


def lora_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of all adapters, each once: what is trained and what is saved.

    Example:
        >>> model = add_lora(nn.Sequential(nn.Linear(8, 4)), targets=["0"], rank=2, alpha=4.0)
        >>> sum(p.numel() for p in lora_parameters(model))
        24
    """
    layers = lora_layers(model).values()
    # dict.fromkeys: two layers may have been given the same factor.
    yield from dict.fromkeys(p for layer in layers for p in layer.adapter_parameters())


def remove_lora_(model: nn.Module) -> nn.Module:
    """Put every LoRA layer's base back in its place, merged or plain as it stands, frozen still.

    Returns:
        The same model, with no LoRA layer in it.

    Raises:
        ValueError: If there is none, the model is one itself, or an unmerged layer's base is the
            residual of PiSSA, which without its adapter is no longer the model.

    Example:
        >>> model = add_lora(nn.Sequential(nn.Linear(8, 4)), targets=["0"], rank=2, alpha=4.0)
        >>> remove_lora_(model)
        Sequential(
          (0): Linear(in_features=8, out_features=4, bias=True)
        )
    """
    layers = lora_layers(model)
    if not layers or "" in layers:
        raise ValueError(
            f"expected a model that holds LoRA layers, got {'one itself' if layers else 'none'}"
        )
    for name, layer in layers.items():
        if layer.variant == "pissa" and not layer.is_merged:
            raise ValueError(
                f"{name}: expected a merged layer, got PiSSA's residual, which is not the weight "
                "that the layer started with: call merge_lora_(model) first"
            )
    _replace_(model, {layer: layer.base for layer in layers.values()})
    return model


def _matches(model: nn.Module, targets: Sequence[str]) -> dict[nn.Module, str]:
    """The modules to adapt with their first names, in the model's order; all targets checked."""
    if isinstance(targets, str):
        raise TypeError(f"targets: expected a sequence of names, got one string: [{targets!r}]?")
    targets = list(targets)
    if not targets:
        raise ValueError("targets: expected at least one name, got none")
    modules = _own_modules(model)
    found: dict[nn.Module, str] = {}
    for target in targets:
        matched = {name: m for name, m in modules.items() if _is_target(name, [target])}
        for name, module in matched.items():
            if isinstance(module, LoRALayer):
                raise ValueError(f"{name}: expected a layer without LoRA, got one that has it")
        able = {module: name for name, module in matched.items() if _layer_class(module)}
        if not able:
            raise ValueError(_no_match(target, matched, modules))
        found |= able
    for name, module in modules.items():
        if module in found and not _is_target(name, targets):
            raise ValueError(
                f"{name}: expected to be a target too, since it is the same layer as "
                f"{found[module]}; got targets {targets}"
            )
    # dict.fromkeys drops the further names of a shared layer and keeps the model's order.
    return {module: found[module] for module in dict.fromkeys(modules.values()) if module in found}


def _is_target(name: str, targets: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{target}") for target in targets)


def _own_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules under all their names, without the model itself and what is in LoRA layers."""
    named = dict(model.named_modules(remove_duplicate=False))
    inside = tuple(f"{name}." for name, module in named.items() if isinstance(module, LoRALayer))
    return {name: m for name, m in named.items() if name and not name.startswith(inside)}


def _no_match(
    target: str, matched: Mapping[str, nn.Module], modules: Mapping[str, nn.Module]
) -> str:
    if matched:
        name, module = next(iter(matched.items()))
        return f"{name}: expected {_SUPPORTED}, got {type(module).__name__}"
    depth = target.count(".") + 1
    ends = {".".join(name.split(".")[-depth:]) for name, m in modules.items() if _layer_class(m)}
    near = difflib.get_close_matches(target, sorted(ends)) or sorted(ends)[:8]
    hint = f"near: {', '.join(near)}" if near else "the model has no layer that can be adapted"
    return f"targets: expected the name of a layer or its end, got {target!r}; {hint}"


def _layer_class(module: nn.Module) -> type[LoRALayer] | None:
    if is_linear(module):
        return LoRALinear
    if is_embedding(module):
        return LoRAEmbedding
    return LoRAConv2d if is_conv2d(module) else None


def _adapted(base: nn.Module, name: str, variant: Variant, settings: dict) -> LoRALayer:
    kind = _layer_class(base)
    try:
        if variant in ("dora", "pissa") and kind is not LoRALinear:
            raise ValueError(
                f"variant {variant!r} expects a linear layer, got {type(base).__name__}"
            )
        if variant == "dora":
            return DoRALinear(base, **settings)
        scaling = "alpha/sqrt(r)" if variant == "rslora" else "alpha/r"
        layer = kind(base, **settings, scaling=scaling)
        if variant == "pissa":
            init_pissa_(layer)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return layer


def _replace_(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put ``new[module]`` wherever the model holds ``module``, under each of its names."""
    named = dict(model.named_modules(remove_duplicate=False))
    for name, module in named.items():
        if module in new:
            parent, _, leaf = name.rpartition(".")
            setattr(named[parent], leaf, new[module])
