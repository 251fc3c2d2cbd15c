"""Which layers of a language model get an update, and which are held in 4 bits.

Chapter: course/07_lora.ipynb.
"""

from typing import TYPE_CHECKING

from torch import nn

from companion.lora.four_bit.quantized import quantize_base_
from companion.lora.linear import is_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["default_targets", "quantize_linear_layers_"]


def default_targets(model: nn.Module) -> list[str]:
    """Names of the layers to adapt: query and value of the attention, as Hu et al. 2021 do.

    GPT-2 computes query, key and value in one layer, ``c_attn``, which is then adapted whole.

    Raises:
        ValueError: If the model calls them otherwise; the message lists its linear layers.

    Example:
        >>> default_targets(nn.ModuleDict({n: nn.Linear(2, 2) for n in ("q_proj", "v_proj")}))
        ['q_proj', 'v_proj']
    """
    names = {name.rpartition(".")[2] for name, m in model.named_modules() if is_linear(m)}
    for usual in (["q_proj", "v_proj"], ["c_attn"]):
        if names.issuperset(usual):
            return usual
    raise ValueError(
        "expected --targets for a model without layers q_proj and v_proj, got none; "
        f"its linear layers are called {', '.join(sorted(names))}"
    )


def quantize_linear_layers_(model: "PreTrainedModel") -> None:
    """Store every ``nn.Linear`` but the output layer in NF4, in place, as Dettmers et al. 2023 do.

    Raises:
        ValueError: If there is none.
    """
    head = model.get_output_embeddings()
    names = [n for n, m in model.named_modules() if type(m) is nn.Linear and m is not head]
    if not names:
        raise ValueError(
            f"expected layers of type nn.Linear for --four-bit, got none in {type(model).__name__}"
        )
    quantize_base_(model, targets=names)
