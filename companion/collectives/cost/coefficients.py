"""What a collective costs on a flat network: messages, bytes and additions on its longest path.

    T = messages · α + moved · S · β + added · S · γ

α seconds pass before a message moves, β seconds for each of its bytes, γ seconds for each byte that
is added to another. A rank may send one message and receive another at the same time, and no two
messages meet on the way.

Source: Hockney 1994 (α, β); Thakur, Rabenseifner & Gropp 2005, §3 (with γ) and §4; Patarasuk & Yuan
2009 (ring); Chan et al. 2007 (tree, lower bounds).
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import math
from typing import Literal, NamedTuple

from companion.checks import check_choice, check_count, typed

__all__ = ["ALGORITHMS", "Algorithm", "Coefficients", "cost_coefficients", "torus_rows"]

Algorithm = Literal[
    "ring",
    "tree",
    "halving_doubling",
    "parameter_server",
    "hierarchical",
    "naive_ring",
    "recursive_doubling",
    "torus",
    "ring_reduce_scatter",
    "ring_all_gather",
]
ALGORITHMS: tuple[str, ...] = Algorithm.__args__


class Coefficients(NamedTuple):
    """What one rank on the longest path does, one thing after the other.

    Fields:
        messages: Messages between hosts; on a flat network, all.
        moved: Their bytes, in units of the tensor's S.
        added: Bytes added to others, in units of S.
        inside_messages: Messages that stay inside a host.
        inside_moved: Their bytes, in units of S.
    """

    messages: float
    moved: float
    added: float
    inside_messages: float = 0
    inside_moved: float = 0.0


@typed
def cost_coefficients(
    algorithm: Algorithm, *, ranks: int, ranks_per_host: int | None = None, ranks_per_nic: int = 1
) -> Coefficients:
    """The factors of α, S·β and S·γ in the time of one call.

    ============================  ======================  =====================  ==============
    algorithm                     messages                moved / S              added / S
    ============================  ======================  =====================  ==============
    ring_reduce_scatter           P−1                     (P−1)/P                (P−1)/P
    ring_all_gather               P−1                     (P−1)/P                0
    ring                          2(P−1)                  2(P−1)/P               (P−1)/P
    torus, P = a·b                2(a+b−2)                2(P−1)/P               (P−1)/P
    naive_ring                    P−1                     P−1                    P−1
    parameter_server              2(P−1)                  2(P−1)                 P−1
    tree                          2⌈log₂P⌉                2⌈log₂P⌉               ⌈log₂P⌉
    recursive_doubling, P = 2ᵏ    k                       k                      k
    halving_doubling, P = 2ᵏ      2k                      2(P−1)/P               (P−1)/P
    ============================  ======================  =====================  ==============

    The last two fold other P to the power of two below: one whole tensor in and one out, + 2, + 2
    and + 1. "hierarchical" is a ring inside each host and a ring across the H = P/R hosts, for the
    R-th part that each rank then holds: inside 2(R−1) messages of S/R, between 2(H−1) of S/(R·H).

    Source: Thakur et al. 2005, §4.4 and §4.5; Patarasuk & Yuan 2009, §3; Chan et al. 2007, §4.

    Args:
        algorithm: One of ``ALGORITHMS``.
        ranks: P, at least 1. One rank has nothing to do: all factors are 0.
        ranks_per_host: R of "hierarchical", which must divide P; no other algorithm takes it.
        ranks_per_nic: Ranks of a host that send between hosts through the same network card and
            share its bandwidth ("hierarchical" alone).

    Raises:
        TypeError: A count is not an integer.
        ValueError: An unknown algorithm, or a count out of its range.

    Example:
        >>> cost_coefficients("ring", ranks=4)
        Coefficients(messages=6, moved=1.5, added=0.75, inside_messages=0, inside_moved=0.0)
        >>> cost_coefficients("tree", ranks=5)[:3]
        (6, 6.0, 3.0)
    """
    check_choice("algorithm", algorithm, ALGORITHMS)
    check_count("ranks", ranks)
    if algorithm == "hierarchical":
        return _hierarchical(ranks, ranks_per_host, ranks_per_nic)
    if ranks_per_host is not None or ranks_per_nic != 1:
        raise ValueError(f"only 'hierarchical' takes ranks_per_host or ranks_per_nic: {algorithm}")
    return Coefficients(*map(sum, zip(*_phases(algorithm, ranks), strict=True)))


def torus_rows(ranks: int) -> int:
    """Rows of the torus: the divisor of P nearest to √P from below (1 for a prime).

    Example:
        >>> [torus_rows(p) for p in (7, 12, 64)]
        [1, 3, 8]
    """
    return max(a for a in range(1, math.isqrt(ranks) + 1) if ranks % a == 0)


def _phases(algorithm: str, p: int) -> list[tuple[float, float, float]]:
    """(messages, moved, added) of each phase on a flat network."""
    passing, share, depth = p - 1, (p - 1) / p, (p - 1).bit_length()
    scatter, gather = (passing, share, share), (passing, share, 0.0)
    match algorithm:
        case "ring_reduce_scatter":
            return [scatter]
        case "ring_all_gather":
            return [gather]
        case "ring":
            return [scatter, gather]
        case "torus":
            steps = torus_rows(p) + p // torus_rows(p) - 2
            return [(steps, share, share), (steps, share, 0.0)]
        case "naive_ring":
            return [(passing, float(passing), float(passing))]
        case "parameter_server":
            return [(passing, float(passing), float(passing)), (passing, float(passing), 0.0)]
        case "tree":
            return [(depth, float(depth), float(depth)), (depth, float(depth), 0.0)]
    return _by_exchanges(algorithm, p)


def _by_exchanges(algorithm: str, p: int) -> list[tuple[float, float, float]]:
    """Exchanges among the 2ᵏ ≤ P ranks that remain after the surplus ranks have folded."""
    k = p.bit_length() - 1
    core, surplus = 2**k, p - 2**k
    fold = [(1, 1.0, 1.0), (1, 1.0, 0.0)] if surplus else []
    if algorithm == "recursive_doubling":
        return [(k, float(k), float(k)), *fold]
    share = (core - 1) / core
    return [(k, share, share), (k, share, 0.0), *fold]


def _hierarchical(p: int, ranks_per_host: int | None, ranks_per_nic: int) -> Coefficients:
    if ranks_per_host is None:
        raise ValueError("'hierarchical': expected ranks_per_host, got None")
    check_count("ranks_per_host", ranks_per_host)
    check_count("ranks_per_nic", ranks_per_nic)
    if p % ranks_per_host:
        raise ValueError(
            f"ranks must be a multiple of ranks_per_host, got {p} and {ranks_per_host}"
        )
    if ranks_per_nic > ranks_per_host:
        raise ValueError(f"ranks_per_nic must be in [1, {ranks_per_host}], got {ranks_per_nic}")
    r, hosts = ranks_per_host, p // ranks_per_host
    inside, between = (r - 1) / r, (hosts - 1) / hosts / r
    return Coefficients(
        2 * (hosts - 1),
        2 * between * ranks_per_nic,
        inside + between,
        inside_messages=2 * (r - 1),
        inside_moved=2 * inside,
    )
