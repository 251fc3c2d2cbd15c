"""How large the gradients of a real language model are: one backward pass of SmolLM2.

Chapter: course/08_precision.ipynb.
"""

import torch
from torch import Tensor, nn

from companion.data import reference_text, smollm2

__all__ = ["exponent_counts", "smollm2_gradient_exponents"]

LOWEST, HIGHEST = -60, 20


def exponent_counts(model: nn.Module) -> Tensor:
    """How many gradients of a model have which binary exponent.

    Args:
        model: After a backward pass, its gradients in float32.

    Returns:
        int64, shape (81,): entry i counts magnitudes in [2^(i−60), 2^(i−59)); the first also holds
        everything smaller, zero too, and the last everything larger.
    """
    counts = torch.zeros(HIGHEST - LOWEST + 1, dtype=torch.int64)
    for parameter in model.parameters():
        if parameter.grad is None:
            continue
        mantissa, exponent = torch.frexp(parameter.grad.flatten())
        # frexp's mantissa lies in [0.5, 1), and is zero for zero.
        exponent = torch.where(mantissa == 0, LOWEST, exponent - 1).clamp(LOWEST, HIGHEST)
        counts += torch.bincount(exponent - LOWEST, minlength=len(counts))
    return counts


def smollm2_gradient_exponents(*, tokens: int = 256) -> Tensor:
    """``exponent_counts`` of SmolLM2-135M's loss on a piece of the Python reference, in float32.

    Args:
        tokens: Length of the piece; the loss is the mean over them.
    """
    model, tokenizer = smollm2(dtype=torch.float32)
    ids = tokenizer(reference_text()[:20_000], return_tensors="pt").input_ids[:, :tokens]
    model(ids, labels=ids).loss.backward()
    return exponent_counts(model)
