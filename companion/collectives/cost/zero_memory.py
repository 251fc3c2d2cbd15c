"""What mixed-precision training keeps on each rank, and what ZeRO leaves of it.

    stage 0:  (2 + 2 + 12) Ψ            every rank keeps everything
    stage 1:  (2 + 2) Ψ + 12 Ψ/P        … a part of the optimizer's state
    stage 2:   2 Ψ + (2 + 12) Ψ/P       … and of the gradients
    stage 3:  (2 + 2 + 12) Ψ/P          … and of the weights

for Ψ weights in 16 bits, as many gradients, and Adam's fp32 copy, mean and variance: 4 + 4 + 4.

Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, §3.1 and Figure 1.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

import math

from companion.checks import check_count, check_number

__all__ = ["zero_memory_bytes"]


def zero_memory_bytes(
    parameters: float,
    *,
    ranks: int,
    stage: int,
    weight_bytes: float = 2,
    gradient_bytes: float = 2,
    optimizer_bytes: float = 12,
) -> float:
    """Bytes of weights, gradients and optimizer state on each rank; activations not counted.

    A part is ⌈Ψ/P⌉ long: the last rank's is padded.

    Source: Rajbhandari et al. 2020, arXiv:1910.02054, Figure 1 (there K = ``optimizer_bytes``).

    Args:
        parameters: Ψ, how many weights, >= 0.
        ranks: P, over which the data is shared out, >= 1.
        stage: 0 (plain data parallelism), 1, 2 or 3.
        weight_bytes: Of each weight.
        gradient_bytes: Of each gradient.
        optimizer_bytes: Of the optimizer's state for each weight, a wider copy included.

    Returns:
        Bytes.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> for stage in range(4):  # 7.5 billion weights on 64 ranks
        ...     print(f"{zero_memory_bytes(7.5e9, ranks=64, stage=stage) / 1e9:.1f} GB")
        120.0 GB
        31.4 GB
        16.6 GB
        1.9 GB
    """
    check_number("parameters", parameters, least=0)
    check_count("ranks", ranks)
    check_count("stage", stage, least=0, most=3)
    check_number("weight_bytes", weight_bytes, least=0)
    check_number("gradient_bytes", gradient_bytes, least=0)
    check_number("optimizer_bytes", optimizer_bytes, least=0)
    part = math.ceil(parameters / ranks)
    return (
        weight_bytes * (part if stage >= 3 else parameters)
        + gradient_bytes * (part if stage >= 2 else parameters)
        + optimizer_bytes * (part if stage >= 1 else parameters)
    )
