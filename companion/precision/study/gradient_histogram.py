"""How large the gradients of a real language model are: one backward pass of SmolLM2.

Chapter: course/08_precision.ipynb.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from companion.data import reference_text, smollm2

__all__ = ["exponent_counts", "smollm2_gradient_exponents"]

LOWEST, HIGHEST = -149, 20  # FP32's smallest subnormal number is 2^−149


def exponent_counts(gradients: Iterable[Tensor]) -> Tensor:
    """How many gradients have which binary exponent.

    Args:
        gradients: In float32, any shapes.

    Returns:
        int64, shape (170,): entry i counts magnitudes in [2^(i−149), 2^(i−148)); the first also
        holds zeros, and the last everything larger.
    """
    counts = torch.zeros(HIGHEST - LOWEST + 1, dtype=torch.int64)
    for gradient in gradients:
        mantissa, exponent = torch.frexp(gradient.flatten())
        # frexp's mantissa lies in [0.5, 1), and is zero for zero.
        exponent = torch.where(mantissa == 0, LOWEST, exponent - 1).clamp(LOWEST, HIGHEST)
        counts += torch.bincount(exponent - LOWEST, minlength=len(counts))
    return counts


def smollm2_gradient_exponents(*, tokens: int = 256) -> dict[str, Tensor]:
    """``exponent_counts`` of SmolLM2-135M's loss on a piece of the Python reference, in float32.

    Args:
        tokens: Length of the piece; the loss is the mean over them.

    Returns:
        Counts of the embedding, which is also the output layer, and of all other weights.
    """
    model, tokenizer = smollm2(dtype=torch.float32)
    ids = tokenizer(reference_text()[:20_000], return_tensors="pt").input_ids[:, :tokens]
    model(ids, labels=ids).loss.backward()
    embedding = model.get_input_embeddings().weight
    others = (p.grad for p in model.parameters() if p is not embedding and p.grad is not None)
    return {
        "embedding": exponent_counts([embedding.grad]),
        "other weights": exponent_counts(others),
    }
