"""Random streams by name: what one of them draws changes no other."""

import hashlib
from functools import lru_cache

import torch

__all__ = ["shuffled", "stream"]


def stream(*names: int | str) -> int:
    """A seed for one purpose, unrelated to the seeds of all others.

    Example:
        >>> stream(0, "order", 1) == stream(0, "order", 1) != stream(1, "order", 0)
        True
    """
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:7], "big")


@lru_cache(maxsize=2)  # a batch may reach over two epochs
def shuffled(seed: int, epoch: int, count: int) -> list[int]:
    """The numbers 0 … count−1 in the order of one epoch.

    Example:
        >>> sorted(shuffled(0, 3, 5))
        [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(stream(seed, "order", epoch))
    return torch.randperm(count, generator=generator).tolist()
