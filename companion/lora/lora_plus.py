"""LoRA+: a larger learning rate for the factor that starts at zero.

    B ← B − ratio · lr · update,    A ← A − lr · update

Source: Hayou et al. 2024, arXiv:2402.12354, §4.
Chapter: course/07_lora.ipynb.
"""

from typing import Any

from torch import nn

from companion.checks import check_number, typed
from companion.lora.embedding import LoRAEmbedding
from companion.lora.layer import LoRALayer

__all__ = ["lora_plus_groups"]


@typed
def lora_plus_groups(
    model: nn.Module,
    *,
    lr: float,
    ratio: float,
    lr_embedding: float | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: A at ``lr``, B at ``ratio * lr``.

    x Aᵀ sums over all I inputs, so its step must shrink as I grows; B's sum has R terms, whatever
    the width. One rate for both leaves B too slow in a wide model; the paper's experiments use 2⁴.

    Neither factor of an embedding sums over the width (A is looked up), and there A is the one
    that starts at zero, so both get one rate of their own. Vectors, such as DoRA's magnitudes and
    trained biases, go with B, without weight decay, which would pull a magnitude to 0.

    Source: Hayou et al. 2024, arXiv:2402.12354, §4 and their code, whose groups these are.
    Differences: its embeddings run at 1e-6 unless told, and PEFT lets magnitudes decay.

    Args:
        model: A model; every parameter with ``requires_grad`` is put into exactly one group.
        lr: Rate of A, and of trained matrices that are no adapters.
        ratio: Rate of B ÷ rate of A, usually > 1.
        lr_embedding: Rate of both factors of embeddings; None means ``lr``.
        weight_decay: For all matrices.

    Returns:
        Those of the groups "A", "embedding", "B" and "vectors" that are not empty, each with
        ``name``, ``params``, ``lr`` and ``weight_decay``.

    Raises:
        TypeError, ValueError: If a rate or the ratio is no finite number above 0, the decay is
            negative, or nothing is trained.

    Example:
        >>> from companion.lora import add_lora
        >>> model = add_lora(nn.Sequential(nn.Linear(8, 4)), targets=["0"], rank=2, alpha=4.0)
        >>> groups = lora_plus_groups(model, lr=1e-4, ratio=16)
        >>> [(group["name"], group["lr"]) for group in groups]
        [('A', 0.0001), ('B', 0.0016)]
    """
    rates = {"lr": lr, "ratio": ratio, "lr_embedding": lr if lr_embedding is None else lr_embedding}
    for name, value in rates.items():
        check_number(name, value, above=0)
    check_number("weight_decay", weight_decay, least=0)
    groups: dict[str, dict[str, Any]] = {
        "A": {"params": [], "lr": lr, "weight_decay": weight_decay},
        "embedding": {"params": [], "lr": rates["lr_embedding"], "weight_decay": weight_decay},
        "B": {"params": [], "lr": lr * ratio, "weight_decay": weight_decay},
        "vectors": {"params": [], "lr": lr * ratio, "weight_decay": 0.0},
    }
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                groups[_group(module, name, parameter)]["params"].append(parameter)
    if not seen:
        raise ValueError("expected a model with trained parameters, got none")
    return [{"name": name, **group} for name, group in groups.items() if group["params"]]


def _group(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if isinstance(module, LoRAEmbedding):
        return "embedding"
    if parameter.ndim <= 1:
        return "vectors"
    return "B" if isinstance(module, LoRALayer) and name.startswith("b_") else "A"
