"""Which of several failed ranks failed first, and the error that says so.

When rank 2 is killed, the ranks that wait for it fail too, and may be heard before it. A reader
wants the cause: the rank that died without a word, or else the one that raised first.

Chapter: course/10_processes.ipynb.
"""

import contextlib
import math
import pickle
import re
import signal
from collections.abc import Sequence

from companion.processes.ranks.failures import LaunchTimeout, RankFailed, ending
from companion.processes.ranks.watch import Rank

__all__ = ["rank_failed", "timed_out"]

_LOST = re.compile(r"Connection (closed|reset) by peer")


def rank_failed(ranks: Sequence[Rank]) -> RankFailed:
    """The error of the rank that failed first; its cause is that rank's exception."""
    first = min((rank for rank in ranks if rank.lost), key=_order)
    number, failed = first.place.rank, first.failed
    text = failed.traceback if failed else _with_header(first.stack)
    exit_code = failed.exit_code if failed else first.exit_code
    error = RankFailed(
        "\n".join(
            [
                f"rank {number} of {len(ranks)} {_what_happened(first)}",
                *(_line(rank) for rank in ranks if rank is not first),
                *([f"\nTraceback of rank {number}:\n{text}"] if text else []),
            ]
        ).rstrip(),
        rank=number,
        exit_code=exit_code,
        traceback=text,
    )
    if failed and failed.pickled:
        with contextlib.suppress(Exception):  # some exceptions cannot be made again from a pickle
            error.__cause__ = pickle.loads(failed.pickled)
    return error


def timed_out(ranks: Sequence[Rank], limit_s: float) -> LaunchTimeout:
    """The error of a launch whose time is up, with the stacks of the ranks that still run."""
    late = [rank for rank in ranks if rank.running]
    names = ", ".join(str(rank.place.rank) for rank in late)
    late_ranks = f"rank {names}" if len(late) == 1 else f"ranks {names}"
    until = "had not returned" if all(rank.ready for rank in ranks) else "were not ready"
    stacks = [
        f"\nStack of rank {rank.place.rank}:\n{rank.stack or '  (it does not answer)'}"
        for rank in late
    ]
    return LaunchTimeout(
        "\n".join(
            [
                f"{late_ranks} of {len(ranks)} {until} within {limit_s:g} s",
                *(_line(rank) for rank in ranks if rank not in late),
                *stacks,
            ]
        ).rstrip(),
        rank=late[0].place.rank,
        traceback=_with_header(late[0].stack),
    )


def _order(rank: Rank) -> tuple[int, float]:
    """Death without a word comes first, for it is noticed late.

    SIGABRT is the exception: C++ libraries end themselves so when a peer has failed. A lost
    connection comes last: gloo reports it where another rank has gone.
    """
    if rank.failed:
        return (2 if _LOST.search(rank.failed.summary) else 1), rank.failed.when_s
    return (1 if rank.exit_code == -signal.SIGABRT else 0), rank.died_s or math.inf


def _what_happened(rank: Rank) -> str:
    if rank.failed:
        return f"raised {rank.failed.summary}"
    if not rank.started:
        return (
            f"{ending(rank.exit_code)} before it could begin: is launch() called by a script "
            'without `if __name__ == "__main__":`?'
        )
    return f"{ending(rank.exit_code)} without returning"


def _line(rank: Rank) -> str:
    number = rank.place.rank
    if rank.lost:
        what = f"{_what_happened(rank)}, after that"
    elif rank.returned:
        what = "had returned"
    else:
        last = rank.stack.rstrip().splitlines()[-2:]
        what = "was still running" + (
            f": {' '.join(line.strip() for line in last)}" if last else ""
        )
    return f"  rank {number} {what}"


def _with_header(stack: str) -> str:
    return f"Traceback (most recent call last):\n{stack}" if stack else ""
