"""Who sends how much to whom, step by step, for each algorithm.

In a step a rank sends at most one message and receives at most one. A rank begins its part in the
next step when its part in this one is over; ranks do not wait for one another otherwise.

Source: as ``companion.collectives.cost.coefficients``.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes, R ranks of a host.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from companion.checks import check_choice, check_count
from companion.collectives.cost.arguments import check_bytes
from companion.collectives.cost.coefficients import ALGORITHMS, Algorithm, torus_rows

__all__ = ["Step", "schedule"]


class Step(NamedTuple):
    """Messages of one size, none of which waits for another.

    Fields:
        src: Senders, each at most once.
        dst: Their receivers, each at most once.
        bytes: Size of every message. A P-th part is S/P, not rounded to whole elements.
        adds: Whether the receiver adds what it gets (γ) or stores it.
        repeat: How often the step is done.
    """

    src: np.ndarray
    dst: np.ndarray
    bytes: float
    adds: bool
    repeat: int = 1


def schedule(
    algorithm: Algorithm, *, ranks: int, bytes: float, ranks_per_host: int = 1
) -> Iterator[Step]:
    """The steps of one call.

    Args:
        algorithm: One of ``companion.collectives.cost.coefficients.ALGORITHMS``.
        ranks: P.
        bytes: S.
        ranks_per_host: R of "hierarchical"; it must divide P. The others do not look at it.

    Raises:
        TypeError, ValueError: An argument is of the wrong kind or out of range.

    Example:
        >>> for src, dst, size, adds, repeat in schedule("tree", ranks=3, bytes=8):
        ...     print(src, "→", dst, size, "added" if adds else "stored", f"× {repeat}")
        [1] → [0] 8 added × 1
        [2] → [0] 8 added × 1
        [0] → [2] 8 stored × 1
        [0] → [1] 8 stored × 1
    """
    check_choice("algorithm", algorithm, ALGORITHMS)
    check_count("ranks", ranks)
    check_count("ranks_per_host", ranks_per_host)
    check_bytes(bytes)
    if algorithm == "hierarchical" and ranks % ranks_per_host:
        raise ValueError(
            f"ranks must be a multiple of ranks_per_host, got {ranks}, {ranks_per_host}"
        )
    return (step for step in _steps(algorithm, ranks, bytes, ranks_per_host) if step.repeat)


def _steps(algorithm: str, p: int, size: float, per_host: int) -> Iterator[Step]:
    match algorithm:
        case "ring" | "ring_reduce_scatter" | "ring_all_gather":
            src, dst = _rings(p, length=p, stride=1)
            if algorithm != "ring_all_gather":
                yield Step(src, dst, size / p, True, p - 1)
            if algorithm != "ring_reduce_scatter":
                yield Step(src, dst, size / p, False, p - 1)
        case "naive_ring":
            yield Step(*_rings(p, length=p, stride=1), size, True, p - 1)
        case "hierarchical":
            yield from _two_rings(p, size, per_host)
        case "torus":
            yield from _two_rings(p, size, p // torus_rows(p))
        case "parameter_server":
            yield from (Step(_one(worker), _one(0), size, True) for worker in range(1, p))
            yield from (Step(_one(0), _one(worker), size, False) for worker in range(1, p))
        case "tree":
            yield from _tree(p, size)
        case _:
            yield from _exchanges(algorithm, p, size)


def _one(rank: int) -> np.ndarray:
    return np.array([rank])


def _rings(p: int, *, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Every rank sends to the next of its ring; neighbours of a ring are ``stride`` apart."""
    ranks = np.arange(p)
    place = ranks // stride % length
    return ranks, ranks + ((place + 1) % length - place) * stride


def _two_rings(p: int, size: float, row: int) -> Iterator[Step]:
    """Reduce-scatter along rows of neighbours, all-reduce along columns, all-gather along rows."""
    rows, along = p // row, _rings(p, length=row, stride=1)
    across = _rings(p, length=rows, stride=row)
    yield Step(*along, size / row, True, row - 1)
    yield Step(*across, size / row / rows, True, rows - 1)
    yield Step(*across, size / row / rows, False, rows - 1)
    yield Step(*along, size / row, False, row - 1)


def _tree(p: int, size: float) -> Iterator[Step]:
    """Binomial: in step k of the way up, ranks 2ᵏ apart pair; the way down is its mirror."""
    distances = [2**k for k in range((p - 1).bit_length())]
    upper = {distance: np.arange(distance, p, 2 * distance) for distance in distances}
    for distance in distances:
        yield Step(upper[distance], upper[distance] - distance, size, True)
    for distance in reversed(distances):
        yield Step(upper[distance] - distance, upper[distance], size, False)


def _exchanges(algorithm: str, p: int, size: float) -> Iterator[Step]:
    """Partners 1, 2, 4 … apart exchange; first the surplus ranks fold into their neighbours."""
    core = 2 ** (p.bit_length() - 1)
    odd = np.arange(1, 2 * (p - core), 2)
    folded = np.concatenate([odd - 1, np.arange(2 * (p - core), p)])  # those that take part
    places = np.arange(core)
    distances = [2**k for k in range(core.bit_length() - 1)]
    halving = algorithm == "halving_doubling"
    if len(odd):
        yield Step(odd, odd - 1, size, True)
    for distance in distances:
        part = size / (2 * distance) if halving else size
        yield Step(folded, folded[places ^ distance], part, True)
    for distance in reversed(distances) if halving else ():
        yield Step(folded, folded[places ^ distance], size / (2 * distance), False)
    if len(odd):
        yield Step(odd - 1, odd, size, False)
