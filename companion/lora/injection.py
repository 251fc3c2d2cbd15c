"""Put LoRA layers into any model, find them, and take them out again.

Chapter: course/07_lora.ipynb.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, get_args

import torch
from torch import nn

from companion.adapters.matching import matching_layers, replace_layers_
from companion.adapters.tied_weights import declare_untied_, shared_parameters
from companion.checks import typed
from companion.lora.convolution import LoRAConv2d, is_conv2d
from companion.lora.dora import DoRALinear
from companion.lora.embedding import LoRAEmbedding, is_embedding
from companion.lora.layer import LoRALayer, Variant
from companion.lora.linear import LoRALinear, is_linear
from companion.lora.pissa import init_pissa_

__all__ = ["add_lora", "attach", "lora_layers", "lora_parameters", "new_layer", "remove_lora_"]

T = TypeVar("T")

_SUPPORTED = "nn.Linear, Conv1D, QuantizedLinear, nn.Embedding or nn.Conv2d"


@typed
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
    bases = _bases(model, targets)
    settings = {"rank": rank, "alpha": alpha, "dropout": dropout, "generator": generator}
    is_tied = not shared_parameters(model).isdisjoint(
        base._parameters.get("weight") for base in bases
    )
    layers = attach(
        model,
        bases,
        lambda: {base: _adapted(base, name, variant, settings) for base, name in bases.items()},
    )
    if variant == "pissa" and is_tied:  # the residuals are weights of their own
        declare_untied_(model)
    replace_layers_(model, layers)
    return model


def attach(model: nn.Module, bases: Iterable[nn.Module], make_layers: Callable[[], T]) -> T:
    """Make LoRA layers for some layers of a model, and freeze the rest but earlier adapters.

    Making a layer freezes its base, and for PiSSA changes its weight: where ``make_layers`` raises
    an error, all is put back.

    Returns:
        What ``make_layers`` returned; it is for the caller to put it in its place.
    """
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    weights = {base: base._parameters.get("weight") for base in bases}  # a 4-bit one has none
    earlier = set(lora_parameters(model))
    try:
        layers = make_layers()
    except BaseException:
        for base, weight in weights.items():
            if weight is not None:
                base.weight = weight
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        raise
    for parameter in model.parameters():
        if parameter not in earlier:
            parameter.requires_grad_(False)
    return layers


def new_layer(base: nn.Module, *, is_dora: bool = False, **settings: Any) -> LoRALayer:
    """The LoRA layer for this kind of base; among linear ones, of DoRA if asked for."""
    if is_embedding(base):
        return LoRAEmbedding(base, **settings)
    if is_conv2d(base):
        return LoRAConv2d(base, **settings)
    return (DoRALinear if is_dora else LoRALinear)(base, **settings)


@typed
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


@typed
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
    replace_layers_(model, {layer: layer.base for layer in layers.values()})
    return model


def _bases(model: nn.Module, targets: Sequence[str]) -> dict[nn.Module, str]:
    """The layers to adapt with their first names, in the model's order; all targets checked."""
    found = matching_layers(
        model,
        targets,
        accepts=lambda m: isinstance(m, LoRALayer) or _can_be_adapted(m),
        expected=_SUPPORTED,
        closed=LoRALayer,
    )
    for module, name in found.items():
        if isinstance(module, LoRALayer):
            raise ValueError(f"{name}: expected a layer without LoRA, got one that has it")
    return found


def _can_be_adapted(module: nn.Module) -> bool:
    return is_linear(module) or is_embedding(module) or is_conv2d(module)


def _adapted(base: nn.Module, name: str, variant: Variant, settings: dict) -> LoRALayer:
    try:
        if variant in ("dora", "pissa") and not is_linear(base):
            raise ValueError(
                f"variant {variant!r} expects a linear layer, got {type(base).__name__}"
            )
        scaling = "alpha/sqrt(r)" if variant == "rslora" else "alpha/r"
        layer = new_layer(base, is_dora=variant == "dora", **settings, scaling=scaling)
        if variant == "pissa":
            init_pissa_(layer)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return layer
