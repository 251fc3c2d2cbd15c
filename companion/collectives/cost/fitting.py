"""α and β of a network from measured times.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from collections.abc import Sequence

import numpy as np

from companion.checks import check_count, typed
from companion.collectives.cost.coefficients import Algorithm, cost_coefficients

__all__ = ["fit_alpha_beta"]


@typed
def fit_alpha_beta(
    sizes_bytes: Sequence[float],
    times_s: Sequence[float],
    *,
    algorithm: Algorithm,
    ranks: int,
) -> tuple[float, float]:
    """The α and β whose model comes nearest to measured times, in relative error.

        minimise  Σᵢ ((m·α + c·Sᵢ·β) / tᵢ − 1)²    over α, β ≥ 0

    with m messages and c·S bytes of the algorithm. Dividing by tᵢ lets 1 KiB count as much as
    1 GiB, and keeps a run that stalled (tᵢ far too large) from pulling the line to itself. What the
    algorithm adds is not told apart from what it moves: β takes up its γ, in the ring half of it.

    Args:
        sizes_bytes: S of each run. Several runs of one size count as one, with their median time.
        times_s: Its time.
        algorithm: One of ``companion.collectives.cost.coefficients.ALGORITHMS`` but
            "hierarchical", which has two links.
        ranks: P, at least 2.

    Returns:
        α in seconds and β in seconds for a byte.

    Raises:
        ValueError: Fewer than two sizes, lengths that differ, a time that is not positive, a
            negative size, or one rank, which sends nothing.

    Example:
        >>> sizes = [1e3, 1e5, 1e7]  # a ring of two: 2α + Sβ
        >>> alpha_s, beta_s_per_byte = fit_alpha_beta(
        ...     sizes, [2 * 5e-6 + s * 1e-9 for s in sizes], algorithm="ring", ranks=2
        ... )
        >>> f"{alpha_s:.3g} s, {beta_s_per_byte:.3g} s/B"
        '5e-06 s, 1e-09 s/B'
    """
    from scipy.optimize import nnls  # a second, which no rank of a group should wait for

    sizes, times = _medians(sizes_bytes, times_s)
    factors = cost_coefficients(algorithm, ranks=ranks)
    check_count("ranks", ranks, least=2)  # one rank sends nothing
    model = np.stack([np.full_like(sizes, factors.messages), factors.moved * sizes], axis=1)
    relative = model / times[:, None]
    # The columns differ by many powers of ten: solve for multiples of their lengths.
    lengths = np.linalg.norm(relative, axis=0)
    solution, _ = nnls(relative / lengths, np.ones_like(times))
    alpha_s, beta_s_per_byte = (solution / lengths).tolist()
    return alpha_s, beta_s_per_byte


def _medians(
    sizes_bytes: Sequence[float], times_s: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Each size once, with the median of its times."""
    sizes, times = _numbers("sizes_bytes", sizes_bytes), _numbers("times_s", times_s)
    if sizes.ndim != 1 or sizes.shape != times.shape:
        raise ValueError(f"expected as many sizes as times, got {sizes.shape} and {times.shape}")
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise ValueError(f"times_s must be finite and positive, got {times.tolist()}")
    if not (np.isfinite(sizes).all() and (sizes >= 0).all()):
        raise ValueError(f"sizes_bytes must be finite and at least 0, got {sizes.tolist()}")
    distinct = np.unique(sizes)
    if len(distinct) < 2:
        raise ValueError(f"expected at least two different sizes, got {distinct.tolist()}")
    return distinct, np.array([np.median(times[sizes == size]) for size in distinct])


def _numbers(name: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(list(values))
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    return array.astype(float)
