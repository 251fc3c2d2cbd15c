"""Models for which PEFT computes something else than we do from the same numbers.

A folder must mean the same here and there, so ``save_lora`` and ``load_lora`` refuse them.
Source: PEFT 0.21, ``tuners/lora/layer.py`` and ``tuners/tuners_utils.py``.
Chapter: course/07_lora.ipynb.  Dimension key: I inputs, O outputs.
"""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from companion.lora.convolution import is_conv2d
from companion.lora.embedding import is_embedding
from companion.lora.layer import LoRALayer
from companion.lora.linear import dense_weight

__all__ = ["check_base", "check_saved_pissa", "check_slots", "check_whole_weight"]


def check_base(name: str, base: nn.Module) -> None:
    """A convolution's A, in PEFT, has neither the base's padding mode nor its dilation.

    Raises:
        ValueError: If that makes a difference.
    """
    if not is_conv2d(base):
        return
    steps = zip(base.dilation, base.kernel_size, strict=True)
    dilates = any(step > 1 and size > 1 for step, size in steps)
    if base.padding_mode != "zeros" or dilates:
        raise ValueError(
            f"{name}: expected a convolution padded with zeros and not dilated, since PEFT's "
            f"adapter always is so, got padding_mode={base.padding_mode!r} and "
            f"dilation={base.dilation}"
        )


def check_slots(model: nn.Module, layers: Mapping[str, LoRALayer]) -> None:
    """PEFT adapts a layer that a model holds twice in the first place alone.

    Raises:
        ValueError: If a LoRA layer stands in two places.
    """
    places = defaultdict(list)
    for parent, module in model.named_modules():
        for name, child in module._modules.items():  # named_children() leaves repetitions out
            places[child].append(f"{parent}.{name}".lstrip("."))
    for name, layer in layers.items():
        if len(places[layer]) > 1:
            raise ValueError(
                f"{name}: expected a layer in one place, since PEFT adapts one, got it in "
                f"{' and '.join(places[layer])}"
            )


def check_saved_pissa(model: nn.Module, layers: Mapping[str, LoRALayer]) -> None:
    """PEFT's PiSSA on a tied output layer takes the singular directions out of the input as well.

    Here the residual is a weight of its own, so the tie is gone when the adapter is saved; but the
    embedding still is the weight that the residual was taken from.

    Raises:
        ValueError: If a layer was tied to an embedding before PiSSA.
    """
    tables = {name: m for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    for name, layer in layers.items():
        if layer.init == "pissa":
            residual_OI = dense_weight(layer.base) - (layer.delta() if layer.is_merged else 0)
            for other, table in tables.items():
                if _is_residual(residual_OI, table.weight):
                    raise ValueError(_tied(name, other.removesuffix(".base")))


def check_whole_weight(model: nn.Module, name: str, base: nn.Module) -> None:
    """The same, before PiSSA is taken out of ``base``.

    Raises:
        ValueError: If another layer has the same weight.
    """
    weight = None if is_embedding(base) else getattr(base, "weight", None)
    for other, module in model.named_modules():
        held = module.parameters(recurse=False)
        if module is not base and any(parameter is weight for parameter in held):
            raise ValueError(_tied(name, other))


@torch.no_grad()
def _is_residual(residual_OI: Tensor, whole_OI: Tensor) -> bool:
    """Whether the first is the second without its largest singular directions.

    If so, what was taken away has no direction in common with what is left: (W − W′)ᵀ W′ = 0.
    """
    if residual_OI.shape != whole_OI.shape:
        return False
    residual_OI = residual_OI.float()
    taken_OI = whole_OI.float() - residual_OI
    overlap, size = ((x.T @ residual_OI).norm() for x in (taken_OI, residual_OI))
    return bool(overlap < 0.1 * size)  # of the order of 1 for unrelated weights


def _tied(name: str, other: str) -> str:
    return (
        f"{name}: expected a weight of its own for PiSSA, since PEFT changes it in place, got one "
        f"tied to {other}"
    )
