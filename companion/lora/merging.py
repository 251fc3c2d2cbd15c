"""Write the updates into the base weights, and restore the base bit for bit.

    W ← round(W + ΔW),  once, in float32

Source: Hu et al. 2021, arXiv:2106.09685, §4.1 ("no additional inference latency").
Chapter: course/07_lora.ipynb.
"""

import torch
from torch import Tensor, nn

from companion.adapters.own_weight import check_own_weight
from companion.adapters.tied_weights import declare_untied_, shared_parameters
from companion.checks import typed
from companion.lora.four_bit.quantized import QuantizedLinear
from companion.lora.injection import lora_layers
from companion.lora.layer import LoRALayer

__all__ = ["merge_lora_", "unmerge_lora_"]


@typed
@torch.no_grad()
def merge_lora_(model: nn.Module, *, keep_base: bool = True) -> nn.Module:
    """Write every update into its base weight, so that the layers cost what their bases cost.

        W ← round(W + s B A),    for DoRA  W ← round(f ⊙ (W + s B A))

    The sum is made in float32 (float64 for float64) and rounded once: in bfloat16, ΔW would lose
    its last digits before they were added. A merged layer gets a base and a weight of its own, so
    read ``layer.base`` anew. A layer whose weight was tied to the base's keeps the old one, and
    ``model.config.tie_word_embeddings``, where there is one, is False while it is so.

    Args:
        model: A model with LoRA layers, none of them merged.
        keep_base: Keep the base weights, in as much memory again, for ``unmerge_lora_``.
            Subtracting ΔW would not restore them: rounding took digits away.

    Returns:
        The same model. It is unchanged if anything is refused.

    Raises:
        RuntimeError: If a layer is merged already.
        ValueError: If there is no LoRA layer, a merged weight would hold NaN or infinity, a base
            is stored in 4 bits or made from other parameters at every call, or a convolution has
            groups; the message names the layer.

    Example:
        >>> from companion.lora import add_lora
        >>> model = add_lora(nn.Sequential(nn.Linear(8, 4)), targets=["0"], rank=2, alpha=4.0)
        >>> merge_lora_(model)[0].is_merged
        True
    """
    layers = _layers(model)
    if merged := [name for name, layer in layers.items() if layer.is_merged]:
        raise RuntimeError(f"{merged[0]}: expected an unmerged layer, got a merged one")
    for name, layer in layers.items():
        _rounded(name, layer)  # twice, here to check: a list of all of them would take memory
    shared = shared_parameters(model)
    is_tied = any(layer.base.weight in shared for layer in layers.values())
    for name, layer in layers.items():
        layer.kept_weight = layer.base.weight if keep_base else None
        layer.set_base_weight(_rounded(name, layer))
        layer.merged = torch.tensor(True, device=layer.base.weight.device)
    if is_tied and declare_untied_(model):
        for layer in layers.values():
            layer.config_was_tied = True
    return model


@typed
@torch.no_grad()
def unmerge_lora_(model: nn.Module) -> nn.Module:
    """Put the kept base weights back: the same parameters with the same bits, tied as before.

    Args:
        model: A model with LoRA layers, all of them merged with ``keep_base=True``.

    Returns:
        The same model. It is unchanged if anything is refused.

    Raises:
        RuntimeError: If a layer is not merged, or its base was not kept.
        ValueError: If there is no LoRA layer.

    Example:
        >>> from companion.lora import add_lora
        >>> model = add_lora(nn.Sequential(nn.Linear(8, 4)), targets=["0"], rank=2, alpha=4.0)
        >>> weight = model[0].base.weight
        >>> unmerge_lora_(merge_lora_(model))[0].base.weight is weight
        True
    """
    layers = _layers(model)
    for name, layer in layers.items():
        if not layer.is_merged:
            raise RuntimeError(f"{name}: expected a merged layer, got an unmerged one")
        if layer.kept_weight is None:
            raise RuntimeError(f"{name}: expected a kept base, got keep_base=False at merging")
    for layer in layers.values():
        layer.base.weight, layer.kept_weight = layer.kept_weight, None
        layer.merged = None
    if any(layer.config_was_tied for layer in layers.values()):
        model.config.tie_word_embeddings = True
        for layer in layers.values():
            layer.config_was_tied = False
    return model


def _layers(model: nn.Module) -> dict[str, LoRALayer]:
    if layers := lora_layers(model):
        return layers
    raise ValueError("expected a model with LoRA layers, got none")


def _rounded(name: str, layer: LoRALayer) -> Tensor:
    """The merged weight in the base's dtype, finite."""
    if isinstance(layer.base, QuantizedLinear):
        raise ValueError(
            f"{name}: expected a dense base to merge into, got a 4-bit one: "
            "call dequantize_base_(model) first"
        )
    try:
        check_own_weight(layer.base)
        weight = layer.merged_weight().to(layer.base.weight.dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not weight.isfinite().all():
        raise ValueError(f"{name}: expected a finite merged weight, got NaN or infinity")
    return weight
