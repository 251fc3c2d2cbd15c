"""A slower link than the machine has, so that on one machine waiting becomes visible.

Chapter: course/11_collectives.ipynb.  Dimension key: S bytes.
"""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from companion.checks import check_number

__all__ = ["delayed"]

_LONGEST_S = 1e6  # of what time.sleep takes on every system


def delayed(
    reduce: Callable[..., Any], *, alpha_s: float = 0.0, beta_s_per_byte: float = 0.0
) -> Callable[..., Any]:
    """An all-reduce that takes longer, as over a link with its own latency and bandwidth.

        time = α + S·β + time of the all-reduce itself

    It sleeps, so the processor is free for others meanwhile, as it is while a network card sends.

    Args:
        reduce: An all-reduce: ``reduce(tensor, …)``.
        alpha_s: Added to every call, in seconds, >= 0.
        beta_s_per_byte: Added for every byte of the tensor, in seconds, >= 0.

    Returns:
        A function with the arguments of ``reduce``.

    Raises:
        TypeError, ValueError: If a delay is no number from 0 to 10⁶ s.

    Example:
        >>> import torch
        >>> slow = delayed(lambda tensor: tensor.mul_(2), alpha_s=0.01)
        >>> start_s = time.perf_counter()
        >>> slow(torch.ones(2)), time.perf_counter() - start_s >= 0.01
        (tensor([2., 2.]), True)
    """
    for name, delay in {"alpha_s": alpha_s, "beta_s_per_byte": beta_s_per_byte}.items():
        check_number(name, delay, least=0, most=_LONGEST_S)

    def slow(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        time.sleep(alpha_s + beta_s_per_byte * tensor.nbytes)
        return reduce(tensor, *args, **kwargs)

    return slow
