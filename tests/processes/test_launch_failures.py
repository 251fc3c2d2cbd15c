"""Every way in which a rank can fail reaches the caller as one readable error."""

import pickle
import re
import signal
import time

import pytest

from companion.processes.launching import launch
from companion.processes.ranks.failures import LaunchTimeout, RankFailed, ending
from tests.processes import ranks_launch as ranks

pytestmark = pytest.mark.usefixtures("nothing_left")


def failure(fn, world_size, *args, kind=RankFailed, **settings):
    with pytest.raises(kind) as caught:
        launch(fn, world_size, *args, **{"timeout_s": 250} | settings)
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize(
    ("how", "exit_code", "message"),
    [
        ("raise", 1, r"rank 1 of 3 raised ValueError: boom\n"),
        ("raise odd", 1, r"rank 1 of 3 raised tests\.processes\.ranks_launch\.Odd: one and two\n"),
        ("exit", 3, r"rank 1 of 3 raised SystemExit: 3\n"),
        ("_exit", 5, r"rank 1 of 3 exited with code 5 without returning\n"),
        ("_exit 0", 0, r"rank 1 of 3 exited with code 0 without returning\n"),
        ("kill", -9, r"rank 1 of 3 was killed by SIGKILL without returning\n"),
        ("segfault", -11, r"rank 1 of 3 was killed by SIGSEGV without returning\n"),
        ("return a lambda", 1, r"rank 1 of 3 raised TypeError: the result must be something that"),
        ("return the stubborn", 0, r"its result cannot be unpickled here: ValueError: made to"),
    ],
)
def test_a_rank_that_does_not_return(capfd, how, exit_code, message):
    start = time.monotonic()
    error = failure(ranks.end, 3, how, backend=None)
    assert time.monotonic() - start < 100  # of the 250 s allowed
    assert re.search(message, str(error))
    assert (error.rank, error.exit_code) == (1, exit_code)
    # Others that had not returned, or had, are told in a line each.
    others = re.findall(r"^  rank [02] (?:had returned$|was still running)", str(error), flags=re.M)
    assert len(others) == 2
    assert capfd.readouterr() == ("", "")


def test_the_traceback_and_the_cause():
    error = failure(ranks.end, 2, "raise", backend=None)
    assert isinstance(error.__cause__, ValueError)
    assert error.__cause__.args == ("boom",)
    assert 'raise ValueError("boom")' in error.traceback
    assert error.traceback.rstrip() in str(error)
    assert "ranks/process.py" not in error.traceback  # our own frames are of no interest


def test_a_segfault_shows_where():
    error = failure(ranks.end, 2, "segfault", backend=None)
    assert "ctypes.string_at(0)" in error.traceback


def test_an_exception_that_cannot_be_unpickled_has_no_cause():
    error = failure(ranks.end, 2, "raise odd", backend=None)
    assert error.__cause__ is None
    assert "Odd: one and two" in error.traceback


def test_the_earliest_failure_is_named_not_the_first_heard():
    error = failure(ranks.fail_late_and_early, 3, backend=None)
    assert error.rank == 2
    assert str(error).startswith("rank 2 of 3 raised ValueError: rank 2 is not content\n")
    assert "  rank 1 raised ValueError: rank 1 is not content, after that\n" in str(error)


@pytest.mark.parametrize(("how", "exit_code"), [("raise", 1), ("kill", -9)])
def test_the_cause_is_named_not_the_lost_connection(capfd, how, exit_code):
    error = failure(ranks.end_while_others_wait, 3, how)
    assert (error.rank, error.exit_code) == (1, exit_code)
    assert len(re.findall(r"^  rank [02] raised .*by peer.*, after that$", str(error), re.M)) == 2
    assert capfd.readouterr().err == ""


def test_a_wrong_shape():
    """gloo ends the receiver, whose peers lose it: the receiver is the one to name."""
    error = failure(ranks.wrong_shape, 3)
    assert (error.rank, error.exit_code) == (0, -signal.SIGABRT)
    assert str(error).startswith("rank 0 of 3 was killed by SIGABRT")


def test_returning_while_others_wait():
    start = time.monotonic()
    error = failure(ranks.end_while_others_wait, 2, "return", timeout_s=250)
    assert time.monotonic() - start < 100
    assert error.rank == 0
    assert "  rank 1 had returned" in str(error)
    assert "distributed.barrier()" in error.traceback


def test_a_rank_that_sleeps_while_others_wait():
    start = time.monotonic()
    error = failure(ranks.end_while_others_wait, 2, "sleep", timeout_s=3, kind=LaunchTimeout)
    assert time.monotonic() - start < 100
    assert str(error).startswith("ranks 0, 1 of 2 had not returned within 3 s\n")
    first, second = str(error).split("Stack of rank 1:")
    assert "distributed.barrier()" in first
    assert "time.sleep(3600)" in second
    assert error.exit_code is None


def test_a_rank_that_sleeps_for_ever():
    error = failure(ranks.end, 3, "sleep", backend=None, timeout_s=6, kind=LaunchTimeout)
    assert error.rank == 1
    assert str(error).startswith("rank 1 of 3 had not returned within 6 s\n  rank 0 had returned\n")
    assert "time.sleep(3600)" in error.traceback


def test_a_rank_that_is_stopped():
    error = failure(ranks.end, 2, "stop", backend=None, timeout_s=3, kind=LaunchTimeout)
    assert "Stack of rank 1:\n  (it does not answer)" in str(error)


def test_an_argument_that_the_rank_cannot_unpickle():
    error = failure(ranks.echo, 2, ranks.Stubborn(), backend=None)
    assert "cannot read echo and its arguments" in str(error)
    assert "ValueError: made to fail" in str(error)


def test_errors_can_be_pickled():
    error = LaunchTimeout("words", rank=3, exit_code=-9, traceback="text")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is LaunchTimeout
    assert (str(again), again.rank, again.exit_code, again.traceback) == ("words", 3, -9, "text")
    assert ending(-200) == "was killed by signal 200"
