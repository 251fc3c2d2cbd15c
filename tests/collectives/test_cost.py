"""The cost model by hand, against lower bounds, and at its crossovers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.collectives.cost.closed_forms import (
    CANDIDATES,
    collective_cost,
    crossover_bytes,
    fastest,
)
from companion.collectives.cost.coefficients import ALGORITHMS, cost_coefficients, torus_rows

ALL_REDUCES = [a for a in ALGORITHMS if a not in ("ring_reduce_scatter", "ring_all_gather")]
NETWORK = {"alpha_s": 10e-6, "beta_s_per_byte": 1e-9}


@pytest.mark.parametrize(
    ("algorithm", "ranks", "expected"),
    [
        ("ring", 4, (6, 6 / 4, 3 / 4)),
        ("ring", 5, (8, 8 / 5, 4 / 5)),
        ("ring_reduce_scatter", 5, (4, 4 / 5, 4 / 5)),
        ("ring_all_gather", 5, (4, 4 / 5, 0)),
        ("naive_ring", 5, (4, 4, 4)),
        ("parameter_server", 5, (8, 8, 4)),
        ("tree", 8, (6, 6, 3)),
        ("tree", 9, (8, 8, 4)),
        ("halving_doubling", 8, (6, 14 / 8, 7 / 8)),
        ("halving_doubling", 7, (6, 2 * 3 / 4 + 2, 3 / 4 + 1)),  # 4 ranks remain after folding 3
        ("recursive_doubling", 8, (3, 3, 3)),
        ("recursive_doubling", 11, (5, 5, 4)),
        ("torus", 12, (2 * (3 + 4 - 2), 22 / 12, 11 / 12)),
        ("torus", 7, (12, 12 / 7, 6 / 7)),
    ],
)
def test_factors_by_hand(algorithm, ranks, expected):
    assert cost_coefficients(algorithm, ranks=ranks)[:3] == pytest.approx(expected)


def test_seconds_by_hand():
    # Ring of 4, 1 MB: 6 · 10 µs + 1.5 MB · 1 ns + 0.75 MB · 0.2 ns.
    seconds = collective_cost("ring", ranks=4, bytes=1e6, gamma_s_per_byte=0.2e-9, **NETWORK)
    assert seconds == pytest.approx(60e-6 + 1500e-6 + 150e-6)


@pytest.mark.parametrize("ranks_per_nic", [1, 2, 4])
def test_hierarchical_by_hand(ranks_per_nic):
    # 3 hosts of 4: inside 2·3 messages of S/4; between 2·2 of S/12, slower where cards are shared.
    seconds = collective_cost(
        "hierarchical",
        ranks=12,
        bytes=12e6,
        **NETWORK,
        gamma_s_per_byte=0.2e-9,
        ranks_per_host=4,
        intra_alpha_s=1e-6,
        intra_beta_s_per_byte=0.1e-9,
        ranks_per_nic=ranks_per_nic,
    )
    inside = 6 * (1e-6 + 3e6 * 0.1e-9)
    between = 4 * (10e-6 + 1e6 * 1e-9 * ranks_per_nic)
    assert seconds == pytest.approx(inside + between + (3 * 3e6 + 2 * 1e6) * 0.2e-9)


def test_a_flat_hierarchy_moves_what_a_torus_moves():
    ring_of_rings = cost_coefficients("hierarchical", ranks=12, ranks_per_host=4)
    torus = cost_coefficients("torus", ranks=12)
    assert ring_of_rings.messages + ring_of_rings.inside_messages == torus.messages
    assert ring_of_rings.moved + ring_of_rings.inside_moved == pytest.approx(torus.moved)
    assert ring_of_rings.added == pytest.approx(torus.added)


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "hierarchical"])
def test_one_rank_has_nothing_to_do(algorithm):
    assert collective_cost(algorithm, ranks=1, bytes=1e9, **NETWORK) == 0


@given(ranks=st.integers(2, 200), algorithm=st.sampled_from(ALL_REDUCES))
def test_no_all_reduce_beats_the_lower_bounds(ranks, algorithm):
    """⌈log₂P⌉ messages (Chan et al. 2007); with one port 2(P−1)/P·S bytes (Patarasuk & Yuan)."""
    hosts = {"ranks_per_host": torus_rows(ranks)} if algorithm == "hierarchical" else {}
    factors = cost_coefficients(algorithm, ranks=ranks, **hosts)
    share = (ranks - 1) / ranks
    assert factors.messages + factors.inside_messages >= math.ceil(math.log2(ranks))
    assert factors.moved + factors.inside_moved >= 2 * share * (1 - 1e-12)
    assert factors.added >= share * (1 - 1e-12)


def test_an_array_of_sizes():
    sizes = np.array([0.0, 1e3, 1e6])
    seconds = collective_cost("tree", ranks=5, bytes=sizes, **NETWORK)
    np.testing.assert_allclose(seconds, 6 * (10e-6 + sizes * 1e-9))


# Crossovers


def test_crossover_by_hand():
    # P = 8: tree 6α + 6Sβ, ring 14α + 1.75Sβ: equal where 4.25 Sβ = 8α.
    size = crossover_bytes("tree", "ring", ranks=8, **NETWORK)
    assert size == pytest.approx(8 * 10e-6 / 4.25e-9)
    assert crossover_bytes("ring", "tree", ranks=8, **NETWORK) == pytest.approx(size)


@given(
    ranks=st.integers(2, 100),
    pair=st.permutations([*ALL_REDUCES[:4], "naive_ring"]),
    gamma=st.sampled_from([0.0, 0.3e-9, 5e-9]),
)
def test_both_take_equally_long_at_the_crossover(ranks, pair, gamma):
    network = {**NETWORK, "gamma_s_per_byte": gamma}
    first, second = [name for name in pair if name != "hierarchical"][:2]
    size = crossover_bytes(first, second, ranks=ranks, **network)
    sizes = [0.0, 1e15] if size is None else [size / 2, size * 2]
    gaps = [
        collective_cost(first, ranks=ranks, bytes=s, **network)
        - collective_cost(second, ranks=ranks, bytes=s, **network)
        for s in sizes
    ]
    if size is None:  # one is nowhere slower
        assert gaps[0] * gaps[1] >= 0
        return
    assert gaps[0] * gaps[1] < 0
    cost = [collective_cost(name, ranks=ranks, bytes=size, **network) for name in (first, second)]
    assert cost[0] == pytest.approx(cost[1])


def test_fastest_is_the_one_of_least_cost():
    for ranks in range(2, 40):
        for size in (1.0, 1e4, 1e5, 1e6, 1e9):
            best = fastest(ranks=ranks, bytes=size, **NETWORK)
            costs = {a: collective_cost(a, ranks=ranks, bytes=size, **NETWORK) for a in CANDIDATES}
            assert costs[best] == min(costs.values())
    assert fastest(ranks=8, bytes=1e9, algorithms=["tree", "ring"], **NETWORK) == "ring"


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"algorithm": "rings"}, ValueError, "algorithm must be one of ring, tree.*got 'rings'"),
        ({"ranks": 0}, ValueError, "ranks must be at least 1, got 0"),
        ({"ranks": 2.0}, TypeError, "ranks: expected an integer, got 2.0"),
        ({"ranks": True}, TypeError, "ranks: expected an integer, got True"),
        ({"bytes": -1}, ValueError, "bytes must be finite and at least 0, got -1"),
        ({"bytes": "1 MB"}, TypeError, "bytes: expected a number or ndarray"),
        (
            {"alpha_s": -1e-6},
            ValueError,
            "alpha_s must be a finite number of at least",
        ),
        ({"beta_s_per_byte": math.nan}, ValueError, "beta_s_per_byte must be a finite"),
        ({"gamma_s_per_byte": None}, TypeError, "gamma_s_per_byte: expected a number, got None"),
        ({"ranks_per_host": 2}, ValueError, "only 'hierarchical' takes ranks_per_host"),
        ({"intra_alpha_s": 1e-6}, ValueError, "a link inside the host: expected 'hierarchical'"),
        ({"algorithm": "hierarchical"}, ValueError, "'hierarchical': expected ranks_per_host"),
        (
            {"algorithm": "hierarchical", "ranks_per_host": 3},
            ValueError,
            "multiple of ranks_per_host, got 4 and 3",
        ),
        (
            {"algorithm": "hierarchical", "ranks_per_host": 2, "ranks_per_nic": 3},
            ValueError,
            r"ranks_per_nic must be in \[1, 2\], got 3",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, error, message):
    call = {"algorithm": "ring", "ranks": 4, "bytes": 1e6, **NETWORK, **change}
    with pytest.raises(error, match=message):
        collective_cost(call.pop("algorithm"), **call)


def test_fastest_of_none():
    with pytest.raises(ValueError, match="algorithms: expected at least one"):
        fastest(ranks=4, bytes=1.0, algorithms=[], **NETWORK)
