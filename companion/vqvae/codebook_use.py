"""How much of a codebook is used: by how many codes, and how evenly.

Chapter: course/03_vqvae.ipynb.  Dimension key: K codes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from companion.checks import check_count, typed

__all__ = ["perplexity", "usage"]


@typed
def perplexity(indices: Int[Tensor, "*b"], num_codes: int) -> Float[Tensor, ""]:
    """How many codes, used equally often, would be as hard to guess as these.

        exp(− Σ_k p_k ln p_k),    p_k = share of the indices that are k,    0 ln 0 = 0

    It is 1 if one code is used, K if all are used equally often, and at most the number of indices.

    Source: van den Oord et al. 2017, arXiv:1711.00937, whose published code prints it.

    Args:
        indices: Which code each vector got, of any shape, at least one.
        num_codes: K, so that indices are in [0, K).

    Returns:
        A number in [1, K], in float64: float32 cannot tell counts above 2²⁴ apart.

    Raises:
        TypeError: Not a tensor of integers, or not an integer.
        ValueError: No index, or one outside of [0, K).

    Example:
        >>> perplexity(torch.tensor([0, 3, 3, 0]), 5)
        tensor(2., dtype=torch.float64)
    """
    counts = _counts(indices, num_codes).double()
    entropy = torch.special.entr(counts / counts.sum()).sum()
    return entropy.exp().clamp(1, num_codes)  # rounding alone could leave the range


@typed
def usage(indices: Int[Tensor, "*b"], num_codes: int) -> Float[Tensor, ""]:
    """Share of the codes that are used at least once; 1 minus it is the share of dead codes.

    Args, Raises: As for ``perplexity``.

    Returns:
        A number in [1/K, 1], in float64.

    Example:
        >>> usage(torch.tensor([0, 3, 3, 0]), 5)
        tensor(0.4000, dtype=torch.float64)
    """
    return (_counts(indices, num_codes) > 0).double().mean()


def _counts(indices: Int[Tensor, "*b"], num_codes: int) -> Int[Tensor, "K"]:
    check_count("num_codes", num_codes)
    if indices.numel() == 0:
        raise ValueError("indices: expected at least one, got none")
    least, most = (int(x) for x in indices.aminmax())
    if least < 0 or most >= num_codes:
        raise ValueError(f"indices must be in [0, {num_codes - 1}], got {least} to {most}")
    return torch.bincount(indices.flatten(), minlength=num_codes)
