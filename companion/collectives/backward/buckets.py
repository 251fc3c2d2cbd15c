"""Which gradients travel together: buckets, filled in the order in which backward finishes them.

One message per gradient pays the start-up time α for each bias; one message for all cannot start
before backward has ended. Buckets lie between, and since backward runs from the last layer to the
first, they are filled from the last parameter on. The first is small, so that sending starts soon.

Source: Li et al. 2020 (PyTorch Distributed), §3.2.3 and §4.2.
Chapter: course/11_collectives.ipynb.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from companion.checks import check_count, typed

__all__ = ["assign_buckets"]


@typed
def assign_buckets(
    parameters: Iterable[Tensor], *, bucket_bytes: int, first_bucket_bytes: int
) -> list[list[nn.Parameter]]:
    """Share parameters out over buckets, from the last parameter to the first.

    A bucket is closed by the parameter with which it reaches its size, so it may be larger. It
    holds one dtype and one device; buckets stand in the order in which they are closed, which is
    the same on every rank.

    Source: Li et al. 2020, §4.2 (the first bucket's own size is that of torch's DDP).

    Args:
        parameters: In the order of the forward pass, as ``module.parameters()`` usually is.
        bucket_bytes: Size at which a bucket is closed, >= 1.
        first_bucket_bytes: Size at which the first of each dtype is closed, >= 1.

    Returns:
        The parameters of each bucket.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> layers = [nn.Parameter(torch.zeros(size)) for size in (10, 20, 30, 40)]
        >>> buckets = assign_buckets(layers, bucket_bytes=200, first_bucket_bytes=100)
        >>> [[p.numel() for p in bucket] for bucket in buckets]
        [[40], [30, 20], [10]]
    """
    check_count("bucket_bytes", bucket_bytes)
    check_count("first_bucket_bytes", first_bucket_bytes)
    Kind = tuple[torch.dtype, torch.device]
    closed: list[list[nn.Parameter]] = []
    filling: dict[Kind, list[nn.Parameter]] = {}
    limit: dict[Kind, int] = {}
    for parameter in reversed(list(parameters)):
        kind = parameter.dtype, parameter.device
        bucket = filling.setdefault(kind, [])
        bucket.append(parameter)
        if sum(p.nbytes for p in bucket) >= limit.get(kind, first_bucket_bytes):
            closed.append(filling.pop(kind))
            limit[kind] = bucket_bytes
    return closed + list(filling.values())
