"""The small networks that chapter 11 trains.

Chapter: course/11_collectives.ipynb.
"""

from itertools import pairwise

import torch
from torch import nn

__all__ = ["network"]


def network(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them; the same weights in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        layers = [nn.Linear(i, o) for i, o in pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
