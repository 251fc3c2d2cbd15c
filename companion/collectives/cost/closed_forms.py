"""The time of a collective from the α–β–γ model; where two algorithms cross; which is fastest.

Source: see ``companion.collectives.cost.coefficients``, where the factors are listed.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from collections.abc import Sequence

import numpy as np

from companion.checks import check_choice, typed
from companion.collectives.cost.arguments import check_bytes, check_seconds
from companion.collectives.cost.coefficients import (
    ALGORITHMS,
    Algorithm,
    Coefficients,
    cost_coefficients,
)

__all__ = ["CANDIDATES", "collective_cost", "crossover_bytes", "fastest"]

# The all-reduces of this package that need to know nothing about hosts.
CANDIDATES: tuple[Algorithm, ...] = ("ring", "tree", "halving_doubling", "parameter_server")


@typed
def collective_cost(
    algorithm: Algorithm,
    *,
    ranks: int,
    bytes: float | np.ndarray,
    alpha_s: float,
    beta_s_per_byte: float,
    gamma_s_per_byte: float = 0.0,
    ranks_per_host: int | None = None,
    intra_alpha_s: float | None = None,
    intra_beta_s_per_byte: float | None = None,
    ranks_per_nic: int = 1,
) -> float | np.ndarray:
    """Seconds that one call takes.

        ring:  2(P−1) α + 2(P−1)/P · S β + (P−1)/P · S γ

    The other algorithms: the table of
    ``companion.collectives.cost.coefficients.cost_coefficients``.

    Source: Thakur, Rabenseifner & Gropp 2005, §4; Patarasuk & Yuan 2009, §3; Chan et al. 2007, §4.

    Args:
        algorithm: One of ``companion.collectives.cost.coefficients.ALGORITHMS``.
        ranks: P.
        bytes: S, the size of the whole tensor on one rank; an array gives an array.
        alpha_s: Seconds before a message moves.
        beta_s_per_byte: Seconds for each byte of a message; the inverse of the bandwidth.
        gamma_s_per_byte: Seconds for each byte that is added to another.
        ranks_per_host: Ranks on one host ("hierarchical" alone).
        intra_alpha_s, intra_beta_s_per_byte: The link inside a host ("hierarchical" alone);
            as between hosts unless given.
        ranks_per_nic: Ranks that share one network card ("hierarchical" alone).

    Raises:
        TypeError: A count is not an integer, or a size or time is not a number.
        ValueError: An argument is out of its range, or the algorithm does not take it.

    Example:
        >>> network = {"alpha_s": 10e-6, "beta_s_per_byte": 1e-9}
        >>> [f"{collective_cost('ring', ranks=p, bytes=1e8, **network):.3f}" for p in (2, 8, 64)]
        ['0.100', '0.175', '0.198']
    """
    check_bytes(bytes)
    intra_alpha = alpha_s if intra_alpha_s is None else intra_alpha_s
    intra_beta = beta_s_per_byte if intra_beta_s_per_byte is None else intra_beta_s_per_byte
    check_seconds(alpha_s=alpha_s, beta_s_per_byte=beta_s_per_byte)
    check_seconds(gamma_s_per_byte=gamma_s_per_byte)
    check_seconds(intra_alpha_s=intra_alpha, intra_beta_s_per_byte=intra_beta)
    check_choice("algorithm", algorithm, ALGORITHMS)
    if algorithm != "hierarchical" and (intra_alpha_s, intra_beta_s_per_byte) != (None, None):
        raise ValueError(f"a link inside the host: expected 'hierarchical', got {algorithm!r}")
    factors = cost_coefficients(
        algorithm, ranks=ranks, ranks_per_host=ranks_per_host, ranks_per_nic=ranks_per_nic
    )
    waiting = factors.messages * alpha_s + factors.inside_messages * intra_alpha
    per_byte = _per_byte(factors, beta_s_per_byte, gamma_s_per_byte)
    return waiting + bytes * (per_byte + factors.inside_moved * intra_beta)


@typed
def crossover_bytes(
    first: Algorithm,
    second: Algorithm,
    *,
    ranks: int,
    alpha_s: float,
    beta_s_per_byte: float,
    gamma_s_per_byte: float = 0.0,
) -> float | None:
    """The size at which two algorithms take equally long on a flat network.

        S* = α · (m₁ − m₂) / (b₂ − b₁),    b = moved · β + added · γ

    Below S* the one with fewer messages is faster, above it the one that moves fewer bytes.

    Returns:
        Bytes; None where one is at least as fast at every size.

    Raises:
        TypeError, ValueError: As ``collective_cost``.

    Example:
        >>> network = {"alpha_s": 10e-6, "beta_s_per_byte": 1e-9}
        >>> round(crossover_bytes("tree", "ring", ranks=8, **network))  # 14α+1.75Sβ = 6α+6Sβ
        18824
    """
    check_seconds(alpha_s=alpha_s, beta_s_per_byte=beta_s_per_byte)
    check_seconds(gamma_s_per_byte=gamma_s_per_byte)
    one, other = (cost_coefficients(name, ranks=ranks) for name in (first, second))
    slopes = [_per_byte(f, beta_s_per_byte, gamma_s_per_byte) for f in (one, other)]
    saved, paid = alpha_s * (one.messages - other.messages), slopes[1] - slopes[0]
    if saved * paid <= 0:  # fewer messages and fewer bytes, or a tie in one of them
        return None
    return saved / paid


@typed
def fastest(
    *,
    ranks: int,
    bytes: float,
    alpha_s: float,
    beta_s_per_byte: float,
    gamma_s_per_byte: float = 0.0,
    algorithms: Sequence[Algorithm] = CANDIDATES,
) -> Algorithm:
    """The algorithm of least cost on a flat network; of equal ones, the first in the list.

    Raises:
        TypeError, ValueError: As ``collective_cost``; no algorithms.

    Example:
        >>> network = {"alpha_s": 10e-6, "beta_s_per_byte": 1e-9}
        >>> [fastest(ranks=12, bytes=s, **network) for s in (1e4, 1e7)]
        ['halving_doubling', 'ring']
    """
    if not algorithms:
        raise ValueError("algorithms: expected at least one, got none")
    model = {
        "alpha_s": alpha_s,
        "beta_s_per_byte": beta_s_per_byte,
        "gamma_s_per_byte": gamma_s_per_byte,
    }
    return min(
        algorithms, key=lambda name: collective_cost(name, ranks=ranks, bytes=bytes, **model)
    )


def _per_byte(factors: Coefficients, beta: float, gamma: float) -> float:
    return factors.moved * beta + factors.added * gamma
