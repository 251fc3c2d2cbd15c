"""A rank that is killed in the middle of a collective: the others hear of it in time."""

import contextlib
import json
import multiprocessing
import signal

import pytest

from tests.collectives import ranks_p2p_dying as ranks


@contextlib.contextmanager
def started(target, size, *args):
    """Ranks without ``launch``, which would end the others as soon as one dies."""
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=target, args=(r, size, *args)) for r in range(size)]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("algorithm", ["ring", pytest.param("tree", marks=pytest.mark.slow)])
def test_a_killed_rank_is_an_error_on_all_others(algorithm, tmp_path):
    with started(ranks.rank_that_survives_or_not, 4, str(tmp_path), algorithm) as processes:
        for process in processes:
            process.join(200)
    assert processes[2].exitcode == -signal.SIGKILL
    reports = {rank: json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1, 3)}
    for rank, report in reports.items():
        assert report["error"].startswith(f"PeerLost: rank {rank} of 4 lost rank ")
        assert report["seconds"] < 60 < ranks.TIMEOUT_S
    # Somebody met the dead one itself; others may have lost those who left because of it.
    assert any(" lost rank 2 while" in report["error"] for report in reports.values())


def test_a_call_that_never_ends_does_not_keep_its_rank_alive(tmp_path):
    with started(ranks.leaves_with_a_call_under_way, 2, str(tmp_path)) as (leaver, sleeper):
        leaver.join(100)
        assert leaver.exitcode == 0
        assert sleeper.is_alive()
