"""Models for which PEFT computes something else than we do from the same numbers.

A folder must mean the same here and there, so ``save_lora`` and ``load_lora`` refuse them.
Source: PEFT 0.21, ``tuners/lora/layer.py`` and ``tuners/tuners_utils.py``.
Chapter: course/07_lora.ipynb.
"""

from collections import defaultdict
from collections.abc import Mapping

from torch import nn

from companion.lora.convolution import is_conv2d
from companion.lora.embedding import is_embedding
from companion.lora.layer import LoRALayer

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

    Raises:
        ValueError: If such a layer is to be saved.
    """
    config = getattr(model, "config", None)
    if not getattr(config, "tie_word_embeddings", False):
        return
    for name, layer in layers.items():
        if layer.init == "pissa" and model.get_output_embeddings() is layer:
            raise ValueError(_tied(name, "the input embedding"))


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


def _tied(name: str, other: str) -> str:
    return (
        f"{name}: expected a weight of its own for PiSSA, since PEFT changes it in place, got one "
        f"tied to {other}"
    )
