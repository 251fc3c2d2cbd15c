"""Bandwidth of an all-reduce, counted in the two ways of nccl-tests.

    algbw = S / t                  what the caller sees
    busbw = S / t · 2(P−1)/P       what the busiest rank's link carried, at the least

An all-reduce moves at least 2(P−1)/P·S bytes a rank on average, so at least that much out of some
rank and into some rank; hence busbw can be held against the speed of the link whatever P is, while
algbw falls as P grows, with nothing slower.

Source: NVIDIA, nccl-tests, doc/PERFORMANCE.md, "Bus bandwidth".
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from companion.checks import check_count, check_number

__all__ = ["algorithm_bandwidth", "bus_bandwidth"]


def algorithm_bandwidth(size_bytes: float, time_s: float) -> float:
    """algbw = S / t, in bytes per second.

    Source: nccl-tests, doc/PERFORMANCE.md.

    Args:
        size_bytes: S, of one rank's tensor, >= 0.
        time_s: Time of the call, > 0.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> algorithm_bandwidth(4e9, 2.0)
        2000000000.0
    """
    check_number("size_bytes", size_bytes, least=0)
    check_number("time_s", time_s, above=0)
    return size_bytes / time_s


def bus_bandwidth(size_bytes: float, time_s: float, ranks: int) -> float:
    """busbw = S / t · 2(P−1)/P of an all-reduce, in bytes per second.

    Source: nccl-tests, doc/PERFORMANCE.md, "AllReduce".

    Args:
        size_bytes: S, of one rank's tensor, >= 0.
        time_s: Time of the call, > 0.
        ranks: P, >= 1. One rank alone moves nothing: 0.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> bus_bandwidth(4e9, 2.0, 4)  # 2 GB/s · 2·3/4
        3000000000.0
    """
    check_count("ranks", ranks)
    return algorithm_bandwidth(size_bytes, time_s) * 2 * (ranks - 1) / ranks
