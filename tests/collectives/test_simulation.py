"""The simulator against closed forms, against a second simulator, and by hand."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.collectives.cost.closed_forms import collective_cost
from companion.collectives.cost.coefficients import ALGORITHMS
from companion.collectives.cost.schedules import schedule
from companion.collectives.cost.simulation import simulate
from companion.collectives.cost.topology import Link, Topology
from tests.collectives.event_oracle import finish_times

NEAR, FAR = Link(1e-6, 0.1e-9), Link(10e-6, 1e-9)
FLAT = Topology(between=FAR)
GAMMA = 0.2e-9
MODEL = {"alpha_s": FAR.alpha_s, "beta_s_per_byte": FAR.beta_s_per_byte, "gamma_s_per_byte": GAMMA}
RANKS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 31, 32, 33, 100, 128]


def hosts(ranks_per_host, **settings):
    return Topology(between=FAR, inside=NEAR, ranks_per_host=ranks_per_host, **settings)


# Closed forms


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "hierarchical"])
@pytest.mark.parametrize("size", [0.0, 1e3, 7654321.0])
def test_flat_network_is_the_closed_form(algorithm, size):
    for ranks in RANKS:
        expected = collective_cost(algorithm, ranks=ranks, bytes=size, **MODEL)
        for keep in (True, False):
            options = {"gamma_s_per_byte": GAMMA, "keep_events": keep}
            trace = simulate(algorithm, ranks=ranks, bytes=size, topology=FLAT, **options)
            assert trace.total_s == pytest.approx(expected, rel=1e-12, abs=0), ranks


@pytest.mark.parametrize(("ranks", "per_host", "per_nic"), [(12, 4, 1), (12, 4, 4), (15, 5, 5)])
def test_hierarchical_is_its_closed_form(ranks, per_host, per_nic):
    topology = hosts(per_host, ranks_per_nic=per_nic)
    trace = simulate(
        "hierarchical", ranks=ranks, bytes=1e6, topology=topology, gamma_s_per_byte=GAMMA
    )
    expected = collective_cost(
        "hierarchical",
        ranks=ranks,
        bytes=1e6,
        **MODEL,
        ranks_per_host=per_host,
        intra_alpha_s=NEAR.alpha_s,
        intra_beta_s_per_byte=NEAR.beta_s_per_byte,
        ranks_per_nic=per_nic,
    )
    assert trace.total_s == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("algorithm", ["ring", "tree", "halving_doubling", "torus"])
def test_65536_ranks_in_seconds(algorithm):
    start = time.perf_counter()
    trace = simulate(algorithm, ranks=65_536, bytes=14e9, topology=FLAT, gamma_s_per_byte=GAMMA)
    assert time.perf_counter() - start < 60
    expected = collective_cost(algorithm, ranks=65_536, bytes=14e9, **MODEL)
    assert trace.total_s == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ranks", [5, 8])
def test_bytes_of_a_ring_and_of_a_server(ranks):
    ring = simulate("ring", ranks=ranks, bytes=1e6, topology=FLAT)
    np.testing.assert_allclose(ring.sent_bytes, 2 * (ranks - 1) / ranks * 1e6)
    np.testing.assert_allclose(ring.received_bytes, ring.sent_bytes)
    server = simulate("parameter_server", ranks=ranks, bytes=1e6, topology=FLAT)
    through_one_port = server.sent_bytes[0] + server.received_bytes[0]
    assert through_one_port == 2 * (ranks - 1) * 1e6
    assert server.sent_bytes[1:].tolist() == [1e6] * (ranks - 1)


# By hand


def test_events_of_a_ring_of_two():
    trace = simulate("ring", ranks=2, bytes=2e6, topology=FLAT, gamma_s_per_byte=GAMMA)
    moved, added = 10e-6 + 1e6 * 1e-9, 1e6 * GAMMA
    starts = [0.0, 0.0, moved + added, moved + added]
    assert [(e.step, e.src, e.dst) for e in trace.events] == [
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 1),
        (1, 1, 0),
    ]
    assert [e.start_s for e in trace.events] == pytest.approx(starts)
    assert [e.end_s for e in trace.events] == pytest.approx([s + moved for s in starts])
    assert [e.done_s - e.end_s for e in trace.events] == pytest.approx([added, added, 0, 0])


def test_half_duplex_doubles_the_bytes_of_a_ring_not_of_a_tree():
    half = Topology(between=FAR, duplex="half")
    ring = simulate("ring", ranks=5, bytes=1e6, topology=half)
    assert ring.total_s == pytest.approx(8 * (10e-6 + 2 * 2e5 * 1e-9))
    tree = simulate("tree", ranks=5, bytes=1e6, topology=half)
    assert tree.total_s == pytest.approx(6 * (10e-6 + 1e6 * 1e-9))


def test_a_flat_ring_leaves_three_of_four_cards_idle():
    """Two hosts of four: between hosts, the ring moves 2·7/8·S through one card of each."""
    ring = simulate("ring", ranks=8, bytes=8e6, topology=hosts(4))
    # Two ranks of the slow link have settled in its pace from the first step; the others follow.
    assert ring.total_s == pytest.approx(14 * (10e-6 + 1e6 * 1e-9))
    cards = simulate("hierarchical", ranks=8, bytes=8e6, topology=hosts(4))
    shared = simulate("hierarchical", ranks=8, bytes=8e6, topology=hosts(4, ranks_per_nic=4))
    inside = 6 * (1e-6 + 2e6 * 0.1e-9)
    assert cards.total_s == pytest.approx(inside + 2 * (10e-6 + 1e6 * 1e-9))
    assert shared.total_s == pytest.approx(inside + 2 * (10e-6 + 4e6 * 1e-9))


def test_cards_shared_by_two():
    pairs = simulate("hierarchical", ranks=8, bytes=8e6, topology=hosts(4, ranks_per_nic=2))
    assert pairs.total_s == pytest.approx(6 * (1e-6 + 2e6 * 0.1e-9) + 2 * (10e-6 + 2e6 * 1e-9))


def test_a_late_rank_delays_all_by_its_delay():
    plain = simulate("ring", ranks=7, bytes=1e6, topology=FLAT)
    late = simulate("ring", ranks=7, bytes=1e6, topology=FLAT, delays_s={3: 0.5})
    assert late.total_s == pytest.approx(plain.total_s + 0.5)


def test_a_slow_rank_sets_the_pace_of_the_ring():
    slow = simulate("ring", ranks=7, bytes=7e6, topology=FLAT, slowdowns={3: 4.0})
    assert slow.total_s == pytest.approx(12 * 4 * (10e-6 + 1e6 * 1e-9))


# A second simulator


def programs_and_messages(algorithm, ranks, size, per_host):
    programs, messages = [[] for _ in range(ranks)], {}
    plan = schedule(algorithm, ranks=ranks, bytes=size, ranks_per_host=per_host)
    for number, step in enumerate(s for s in plan for _ in range(s.repeat)):
        parts = {}
        for src, dst in zip(step.src.tolist(), step.dst.tolist(), strict=True):
            parts.setdefault(src, []).append(("send", dst, number, step.adds))
            parts.setdefault(dst, []).append(("recv", src, number, step.adds))
            messages.setdefault(number, []).append((src, dst, step.bytes))
        for rank, ops in parts.items():
            programs[rank].append(ops)
    return programs, messages


def slow_durations(messages, *, per_host, per_nic, duplex):
    """(src, dst, step) → seconds, counting the messages that meet at a port one by one."""

    def ports(src, dst):
        if src // per_host == dst // per_host:
            return ("own", src), ("own", dst)
        return tuple(("card", r // per_host, r % per_host // per_nic) for r in (src, dst))

    seconds = {}
    for number, sent in messages.items():
        for src, dst, size in sent:
            here = ports(src, dst)
            link = NEAR if here[0][0] == "own" else FAR
            pairs = [ports(a, b) for a, b, _ in sent]
            if duplex == "full":
                busy = max(sum(p[side] == here[side] for p in pairs) for side in (0, 1))
            else:
                busy = max(sum(p.count(port) for p in pairs) for port in here)
            seconds[src, dst, number] = link.alpha_s + busy * size * link.beta_s_per_byte
    return seconds


@settings(max_examples=300)
@given(
    algorithm=st.sampled_from(ALGORITHMS),
    shape=st.sampled_from([(2, 1), (5, 1), (6, 3), (8, 4), (12, 4), (12, 1), (10, 5), (9, 3)]),
    per_nic=st.integers(1, 5),
    duplex=st.sampled_from(["full", "half"]),
    size=st.sampled_from([0.0, 1e4, 3e6]),
    delays=st.dictionaries(st.integers(0, 1), st.floats(0, 1e-3), max_size=2),
    slowdowns=st.dictionaries(st.integers(0, 1), st.floats(1, 5), max_size=2),
    keep=st.booleans(),
)
def test_same_as_an_event_queue(algorithm, shape, per_nic, duplex, size, delays, slowdowns, keep):
    ranks, per_host = shape
    per_nic = min(per_nic, per_host)
    topology = hosts(per_host, ranks_per_nic=per_nic, duplex=duplex)
    programs, messages = programs_and_messages(algorithm, ranks, size, per_host)
    seconds = slow_durations(messages, per_host=per_host, per_nic=per_nic, duplex=duplex)
    sizes = {number: sent[0][2] for number, sent in messages.items()}
    expected = finish_times(
        programs,
        duration=lambda src, dst, number: (
            seconds[src, dst, number] * max(slowdowns.get(src, 1), slowdowns.get(dst, 1))
        ),
        adding=lambda dst, number: sizes[number] * GAMMA * slowdowns.get(dst, 1),
        delays=[delays.get(rank, 0.0) for rank in range(ranks)],
    )
    trace = simulate(
        algorithm,
        ranks=ranks,
        bytes=size,
        topology=topology,
        gamma_s_per_byte=GAMMA,
        delays_s=delays,
        slowdowns=slowdowns,
        keep_events=keep,
    )
    np.testing.assert_allclose(trace.finish_s, expected, rtol=1e-9, atol=1e-15)
    if keep:
        assert len(trace.events) == sum(map(len, messages.values()))
        assert max((e.done_s for e in trace.events), default=0.0) <= trace.total_s * (1 + 1e-12)


@pytest.mark.parametrize("straggler", [{}, {"delays_s": {7: 0.3}}, {"slowdowns": {7: 1.7}}])
@pytest.mark.parametrize("algorithm", ["ring", "hierarchical", "naive_ring"])
def test_jumping_changes_nothing(algorithm, straggler):
    call = {"ranks": 96, "bytes": 5e6, "topology": hosts(8), "gamma_s_per_byte": GAMMA}
    stepped = simulate(algorithm, **call, **straggler, keep_events=True)
    jumped = simulate(algorithm, **call, **straggler, keep_events=False)
    np.testing.assert_allclose(jumped.finish_s, stepped.finish_s, rtol=1e-12)
    assert stepped.jumped_steps == 0 == len(jumped.events)
    assert stepped.steps == jumped.steps
    if not straggler:
        assert jumped.jumped_steps > 0.8 * jumped.steps - 20


def test_few_messages_are_kept_and_many_are_not():
    assert len(simulate("ring", ranks=10, bytes=1.0, topology=FLAT).events) == 180
    assert simulate("ring", ranks=100, bytes=1.0, topology=FLAT).events == ()


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ranks": 0}, ValueError, "ranks must be at least 1, got 0"),
        ({"bytes": -1.0}, ValueError, "bytes must be finite"),
        (
            {"gamma_s_per_byte": -1.0},
            ValueError,
            "gamma_s_per_byte must be a finite number",
        ),
        ({"delays_s": {4: 1.0}}, ValueError, r"delays_s must name ranks in \[0, 3\], got 4"),
        (
            {"delays_s": {1: -1.0}},
            ValueError,
            r"delays_s\[1\] must be a finite number of",
        ),
        (
            {"slowdowns": {1: 0.5}},
            ValueError,
            r"slowdowns\[1\] must be .* at least 1.0, got 0.5",
        ),
        ({"slowdowns": {-1: 2.0}}, ValueError, "slowdowns must name ranks in"),
    ],
)
def test_what_does_not_fit_is_named(change, error, message):
    call = {"ranks": 4, "bytes": 1e6, "topology": FLAT, **change}
    with pytest.raises(error, match=message):
        simulate("ring", **call)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranks_per_host": 2}, "inside: expected a link for 2 ranks"),
        ({"ranks_per_host": 0}, "ranks_per_host must be at least 1"),
        ({"ranks_per_nic": 2}, r"ranks_per_nic must be in \[1, 1\], got 2"),
        ({"duplex": "double"}, "duplex must be one of full, half, got 'double'"),
        ({"inside": Link(-1.0, 0.0)}, "alpha_s must be a finite number of at least 0"),
    ],
)
def test_topology_that_does_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        Topology(between=FAR, **settings)
