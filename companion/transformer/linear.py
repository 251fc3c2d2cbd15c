"""Linear maps whose first weights come from a generator."""

import math

import torch
from torch import nn

__all__ = ["new_linear"]


def new_linear(
    inputs: int, outputs: int, *, generator: torch.Generator | None, summands: int = 1
) -> nn.Linear:
    """A map without bias, its weights normal with deviation 0.02/√summands, as in GPT-2.

    Radford et al. 2019, "Language models are unsupervised multitask learners", §2.3.

    Args:
        inputs, outputs: I and O.
        generator: On the CPU; torch's own where None.
        summands: Maps whose outputs are added up. The sum is then as large as one alone.

    Example:
        >>> new_linear(3, 5, generator=None)
        Linear(in_features=3, out_features=5, bias=False)
    """
    # skip_init: weights that nn.Linear draws and we throw away would move torch's generator.
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=0.02 / math.sqrt(summands), generator=generator)
    return linear
