"""Four ranks: calls that do not match, layouts, numbers by hand, asynchronous calls, a sleeper."""

import math

import pytest

from tests.collectives import ranks_p2p_group as ranks


@pytest.fixture(scope="module")
def results(in_ranks):
    return in_ranks(ranks.everything, 4)


# Mismatches: (what every rank says, or what each rank says)

_SEGMENTS = "options chunk_bytes=2097152"
_EXPANDED = "ValueError: expected a tensor to write to, got an expanded one"
_NO_LIST = "TypeError: expected a tensor, got list"
_NO_AVG = "ValueError: op must be one of sum, mean, prod, max, min, got 'avg'"
_ONES = ", ".join("1" * 50)

DISAGREE = {
    "shape": "all_reduce call 0: rank 2 has shape (5, 3), the others have (3, 5)",
    "dtype": "all_reduce call 2: rank 0 has dtype float16, the others have float32",
    "op": "all_reduce call 4: rank 3 has op max, the others have sum",
    "algorithm": "all_reduce call 6: rank 1 has algorithm tree, the others have ring",
    "order": "call 8: rank 1 has collective all_gather, the others have all_reduce",
    "chunk_bytes": "all_reduce call 10: rank 2 has options chunk_bytes=64, the others have "
    "chunk_bytes=2097152",
    "tie": "all_reduce call 12: rank 2 and rank 3 have shape (8,), rank 0 and rank 1 have (7,)",
    "two": "all_reduce call 14: rank 1 has shape (8,), op min, the others have shape (7,), op sum",
    "many dims": f"all_reduce call 28: rank 1 has shape ({_ONES}, 3, 2), the others have "
    f"({_ONES}, 2, 3)",
    "trailing": "all_gather call 30: rank 1 has shape (5, 2), the others have (4, 3)",
}


@pytest.mark.parametrize("case", DISAGREE)
def test_every_rank_names_those_that_differ(results, case):
    for result in results:
        assert (
            result["mismatch"][case][0] == f"CollectiveMismatch: ranks disagree on {DISAGREE[case]}"
        )


@pytest.mark.parametrize(
    ("case", "odd", "own"),
    [("no tensor", 2, _NO_LIST), ("expanded", 2, _EXPANDED), ("unknown op", 0, _NO_AVG)],
)
def test_one_rank_that_cannot_take_part_tells_the_others(results, case, odd, own):
    for rank, result in enumerate(results):
        error = result["mismatch"][case][0]
        if rank == odd:
            assert error.startswith(own)
        else:
            assert error.startswith(
                f"CollectiveMismatch: rank {odd} cannot take part in all_reduce"
            )
            assert own in error


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("mean of integers", "TypeError: mean is not defined for int64"),
        ("no segments", "ValueError: chunk_bytes must be an integer >= 1, got 0"),
        ("hosts", "ValueError: ranks_per_host must divide the 4 ranks, got 3"),
    ],
)
def test_a_call_that_is_wrong_everywhere_raises_everywhere(results, case, message):
    for result in results:
        assert result["mismatch"][case][0].startswith(message)


def test_the_next_call_works(results):
    for result in results:
        assert len(result["mismatch"]) == 16
        assert all(after == [6, 4] for _, after in result["mismatch"].values())


# Layouts


def test_any_layout_in_place(results):
    assert [result["layouts"] for result in results] == [[]] * 4


def test_gloo_is_silently_wrong_on_a_strided_tensor_and_we_are_not(results):
    for result in results:
        complaint, theirs, ours = result["trap"]
        assert ours == [4.0, 12.0, 20.0]
        assert complaint is None
        # It took the first three floats in memory, 1, 2 and 3, for the tensor.
        assert theirs == [4.0, 12.0, 5.0]


# Numbers by hand


@pytest.mark.parametrize("algorithm", ranks.ALL)
def test_numbers_by_hand(results, algorithm):
    for result in results:
        largest, nan, zero = result["by_hand"][algorithm, "max"]
        assert (largest, zero) == (3.0, 0.0)
        assert math.isnan(nan)
        # Four times the smallest float, by 4. A division before the sum would leave nothing.
        assert result["by_hand"][algorithm, "mean"] == [1.0, 1.0]
        assert result["by_hand"][algorithm, "bool"] == [True, False, True]
        assert result["by_hand"][algorithm, "uint8"] == [300 - 256]
        assert result["by_hand"][algorithm, "complex"] == [1.0]


def test_ops_without_a_meaning(results):
    for result in results:
        assert result["by_hand"]["no bool sum"].startswith("TypeError: sum is not defined for bool")
        assert result["by_hand"]["no complex max"].startswith(
            "TypeError: max is not defined for complex64"
        )


def test_reduce_scatter_by_hand(results):
    # Σ rank·[0 … 5] = 6·[0 … 5], by 4, in chunks of 2, 2, 1 and 1.
    chunks = [result["by_hand"]["mean of a chunk"] for result in results]
    assert chunks == [[0.0, 1.5], [3.0, 4.5], [6.0], [7.5]]


def test_all_gather_by_hand(results):
    for result in results:
        assert result["gather"]["rows"] == [[1, 1], [2, 2], [2, 2], [3, 3], [3, 3], [3, 3]]
        assert result["gather"]["flags"] == [False, True, False, False]
        assert result["gather"]["strided"] == [0, 2, 1, 3, 2, 3]
        assert result["gather"]["scalar"].startswith("ValueError: expected a chunk with at least")


def test_hosts_from_the_environment(results):
    for result in results:
        refused, total = result["environment"]
        assert refused == "ValueError: ranks_per_host must divide the 4 ranks, got 3"
        assert total == [4.0, 4.0]


# Asynchronous calls


def test_asynchronous_calls_run_in_order(results):
    for result in results:
        outcome = result["async"]
        assert outcome["values"] == [[], [10.0], [14.0], [18.0], [22.0], [26.0]]
        assert outcome["between"] == [6]
        assert outcome["done"]  # a synchronous call ends after those before it
        assert outcome["waited"] == [True] * 6


def test_wait_raises_what_the_call_would_have_raised_each_time(results):
    for result in results:
        first, second = result["async"]["errors"]
        assert first == second
        assert first.startswith("CollectiveMismatch: ranks disagree on all_reduce")
        assert "rank 0 has shape (4,), the others have (3,)" in first


def test_one_thread_and_then_none(results):
    assert [result["async"]["threads"] for result in results] == [(1, 0)] * 4


def test_the_recipe_tells_right_from_wrong(results):
    for result in results:
        assert result["check"] == {"ring": True, "one bit": False, "far": False}


# A rank that does not come


def test_a_sleeping_rank_is_named_within_the_timeout(results):
    assert results[2]["asleep"] is None
    assert results[1]["asleep"][0].endswith("is not in the group")
    for rank in (0, 3):
        error, seconds = results[rank]["asleep"]
        assert error.startswith("PeerLost: rank ")
        assert "lost rank 1 (global rank 2) while" in error
        assert "Timed out waiting 2000ms" in error
        assert 1.5 < seconds < 100
