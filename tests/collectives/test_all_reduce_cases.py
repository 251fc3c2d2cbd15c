"""Every all-reduce, on groups of 1, 2, 3, 4, 5, 7 and 8 real ranks, against gloo and a replay."""

import pytest

from tests.collectives import ranks_p2p_cases as ranks

ALL = [
    pytest.param(members, id=f"P={len(members)}: {members}")
    for parts in ranks.GROUPS.values()
    for members in parts
]


@pytest.fixture(scope="module")
def results(in_ranks):
    return in_ranks(ranks.all_groups, 8)


def check_group(results, members):
    """Each case's rows, one per rank of the group, in the group's order."""
    by_rank = [results[rank][tuple(members)] for rank in members]
    assert len(by_rank[0]) > 80
    for rows in zip(*by_rank, strict=True):
        case = rows[0]["case"]
        assert all(row["case"] == case for row in rows)
        assert len({row["digest"] for row in rows}) == 1, f"other bits on another rank: {case}"
        assert max(row["gap_to_gloo"] for row in rows) <= 1, f"far from gloo: {case}"
        assert all(row["is_replay"] for row in rows), f"not the documented order: {case}"
        assert all(row["in_place"] for row in rows), case


@pytest.mark.slow
@pytest.mark.parametrize("members", ALL)
def test_same_bits_near_gloo_in_the_documented_order(results, members):
    check_group(results, members)
