"""Ranks killed in the middle of a reduction in shared memory: the others hear of it at once."""

import json
import os
import signal
from pathlib import Path

from tests.collectives import ranks_shared_lost as ranks
from tests.collectives.test_peer_lost import started

SHM = Path("/dev/shm")


def test_killed_ranks_are_an_error_on_all_others_long_before_the_timeout(tmp_path):
    with started(ranks.rank_that_survives_or_not, 4, str(tmp_path)) as processes:
        for process in processes:
            process.join(200)
    assert processes[2].exitcode == -signal.SIGKILL
    for rank in (0, 1, 3):
        report = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in ("in pieces", "at rest"):
            error, seconds = report[name]
            assert error.startswith("PeerLost: rank "), name
            assert "rank 2" in error, name
            assert seconds < 60 < ranks.TIMEOUT_S, name
    # By its maker: other tests run beside us.
    made = [
        list(SHM.glob(f"companion-{pid}-*")) for pid in (os.getpid(), *(p.pid for p in processes))
    ]
    assert made == [[]] * 5
