"""All-reduce through shared memory: numbers by hand and gloo's, errors, and nothing left behind."""

import json

import pytest

from tests.collectives import ranks_shared as ranks
from tests.collectives.test_peer_lost import started


@pytest.fixture(scope="module", params=[2, 3])
def results(request, in_ranks):
    return in_ranks(ranks.everything, request.param)


def test_every_number_is_what_it_is_by_hand(results):
    for result in results:
        assert result["numbers"][0] == []


def test_all_ranks_have_the_same_bits(results):
    first = results[0]["numbers"][1]
    assert len(first) > 150
    for result in results[1:]:
        assert result["numbers"][1] == first


def test_sums_are_as_near_to_gloo_as_their_order_allows(results):
    for result in results:
        for (dtype, _), error in result["gloo"].items():
            assert error <= (0 if dtype == "torch.int64" else len(results))


def test_strided_tensors_change_where_they_are_and_nowhere_else(results):
    size = len(results)
    total = sum(range(size))
    for rank, result in enumerate(results):
        layouts = result["layouts"]
        for row, line in enumerate(layouts["column"]):
            others = [4 * row + c + 100 * rank for c in (0, 2, 3)]
            assert line[1] == size * (4 * row + 1) + 100 * total
            assert [line[0], *line[2:]] == others
        factor = sum(range(1, size + 1))
        assert layouts["transposed"] == [
            [0, 3 * factor],
            [factor, 4 * factor],
            [2 * factor, 5 * factor],
        ]
        assert layouts["large"] == ({float(factor)}, {rank + 1.0})
        assert layouts["parameter"] == ([float(factor)], True)
        assert layouts["scalar"] == (total, ())


def test_nan_stays_visible(results):
    for result in results:
        assert result["nan"] == [[True, False]] * 5


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("shape", "rank 1 has shape (4,), {others} (3,)"),
        ("dtype", "rank 1 has dtype float64, {others} float32"),
        ("op", "rank 1 has op max, {others} sum"),
        ("large", "rank 1 has shape (500001,), {others} (500000,)"),
    ],
)
def test_a_mismatch_is_an_error_everywhere_and_changes_nothing(results, case, message):
    # With two ranks there is no majority: both sides are named.
    others = "the others have" if len(results) > 2 else "rank 0 has"
    for result in results:
        error, untouched, after = result["mismatch"][case]
        assert error.startswith("CollectiveMismatch: ranks disagree on all_reduce")
        assert message.format(others=others) in error
        assert untouched
        assert after == [len(results)] * 2


def test_a_rank_that_cannot_take_part_tells_the_others(results):
    for rank, result in enumerate(results):
        error, after = result["refusals"]
        assert "mean is not defined for int64" in error
        assert error.startswith("TypeError" if rank == 1 else "CollectiveMismatch: rank 1")
        assert after == [len(results)] * 2


def test_many_calls_in_a_row(results):
    assert [result["many"] for result in results] == [0] * len(results)


def test_groups_do_not_disturb_one_another(results):
    size = len(results)
    expected = [size * i + sum(range(size)) for i in range(5) for _ in range(2)]
    for rank, result in enumerate(results):
        assert result["groups"] == expected + ([1] if rank < 2 else [])


def test_other_collectives_may_come_between(results):
    size = len(results)
    for result in results:
        assert result["mixed"] == [size * i + sum(range(size)) for i in range(4)]


def test_nothing_is_left_in_shared_memory(results):
    for result in results:
        (names, _), (names_after, _) = result["before"], result["after"]
        assert set(names_after) <= set(names)


def test_open_files_do_not_grow_with_calls(results):
    """One mapping per group; the sockets of the new groups are counted too."""
    for result in results:
        assert result["after"][1] - result["before"][1] < 20 * len(results)


def test_one_rank_alone(in_ranks):
    assert in_ranks(ranks.alone, 1) == [([3.0, 4.0], 8)]


def test_a_rank_that_stays_away_is_an_error_on_all_others(tmp_path):
    """One that is killed: ``test_shared_memory_lost.py``."""
    with started(ranks.loses_a_rank, 3, str(tmp_path)) as processes:
        for process in processes[:2]:
            process.join(100)
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for report in reports:
        first, second = report["errors"]
        assert first.startswith("PeerLost: rank ")
        assert "lost rank 2" in first
        assert "make a new group" in second
        assert report["seconds"] < 100
