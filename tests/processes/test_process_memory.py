"""Shared and proportional memory, against psutil and by hand; copy-on-write by its closed form."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from companion.processes.pss import memory_pss
from companion.processes.study.frozen_fork import ForkOutcome, fork_after_threads
from companion.processes.study.page_copies import copy_on_write
from tests.measurements import measured_again

LINUX = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="not Linux")
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
pytestmark = pytest.mark.usefixtures("nothing_left")
MIB = 2**20


@pytest.fixture
def sleeper():
    """Another process, which does nothing."""
    program = "print('ready', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        process.stdout.readline()
        yield process
        process.kill()


@LINUX
def test_another_process_as_psutil_sees_it(sleeper):
    ours, theirs = memory_pss(sleeper.pid), psutil.Process(sleeper.pid).memory_full_info()
    # RSS: psutil reads another counter, which the kernel brings up to date now and then.
    assert ours.rss_bytes == pytest.approx(theirs.rss, abs=MIB)
    # Other processes that map Python's files may have come or gone in between.
    assert ours.pss_bytes == pytest.approx(theirs.pss, rel=0.1)
    assert ours.uss_bytes == pytest.approx(theirs.uss, rel=0.1)
    assert ours.uss_bytes < ours.pss_bytes < ours.rss_bytes
    assert ours.uss_bytes + ours.shared_bytes == pytest.approx(ours.rss_bytes, abs=4096)


@LINUX
@measured_again  # the system may take other memory of this process back in between
def test_new_private_memory_counts_fully():
    before = memory_pss()
    with mmap.mmap(-1, 64 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for page in range(0, 64 * MIB, mmap.PAGESIZE):
            memory[page] = 1
        after = memory_pss(os.getpid())
    for field in ("rss_bytes", "pss_bytes", "uss_bytes"):
        grown = getattr(after, field) - getattr(before, field)
        assert grown == pytest.approx(64 * MIB, abs=MIB)
    assert after.shared_bytes == pytest.approx(before.shared_bytes, abs=MIB)


@LINUX
@measured_again
def test_a_file_that_only_we_have_mapped_is_ours_alone(tmp_path):
    # On a disk its pages are "clean": read, and never written to by us.
    with open(tmp_path / "file", "wb+") as file:
        file.write(b"x" * (16 * MIB))
        file.flush()
        os.fsync(file.fileno())
        before = memory_pss()
        with mmap.mmap(file.fileno(), 16 * MIB, access=mmap.ACCESS_READ) as memory:
            assert sum(memory[page] for page in range(0, 16 * MIB, mmap.PAGESIZE)) > 0
            after = memory_pss()
    assert after.uss_bytes - before.uss_bytes == pytest.approx(16 * MIB, abs=MIB)


@LINUX
def test_who_has_no_memory(sleeper):
    with pytest.raises(ProcessLookupError, match="got number 4194305"):
        memory_pss(2**22 + 1)  # above the largest number that Linux gives to a process
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet seen to
    with pytest.raises(ProcessLookupError, match=f"got number {sleeper.pid}"):
        memory_pss(sleeper.pid)


@LINUX
def test_each_is_charged_half_of_what_is_shared():
    size, writes = 16 * MIB, (0.25, 0, 1, 0.5, 0.125)
    rows = copy_on_write(size, writes=writes)
    assert [row.written for row in rows] == [*writes]
    for row in rows:
        expected = row.written * size + (1 - row.written) * size / 2
        assert (row.parent_bytes, row.child_bytes) == pytest.approx((expected, expected), abs=65536)
        assert (row.parent_mib * MIB, row.child_mib * MIB) == (row.parent_bytes, row.child_bytes)


@LINUX
def test_an_odd_size_is_rounded_up_to_pages():
    pages = 7
    size = pages * mmap.PAGESIZE - 1
    (row,) = copy_on_write(size, writes=[1])
    assert row.parent_bytes == row.child_bytes == pages * mmap.PAGESIZE


@LINUX
@pytest.mark.parametrize(
    ("size", "writes", "message"),
    [
        (0, (1,), "size_bytes must be at least 1, got 0"),
        (4096, (0.5, 1.5), r"writes must be a finite number in \[0, 1\], got 1.5"),
        (4096, (-0.1,), r"writes must be a finite number in \[0, 1\], got -0.1"),
    ],
)
def test_what_copy_on_write_refuses(size, writes, message):
    with pytest.raises(ValueError, match=message):
        copy_on_write(size, writes=writes)


@FORK
def test_a_lock_held_at_the_fork_never_opens_in_the_child():
    assert fork_after_threads(timeout_s=0.5) == ForkOutcome(2, 1, True, False, 0.5)


@FORK
def test_a_lock_that_nobody_held_opens():
    outcome = fork_after_threads(timeout_s=20, held=False)
    assert outcome == ForkOutcome(2, 1, True, True, 20)


def test_a_frozen_fork_in_words():
    assert str(ForkOutcome(2, 1, True, False, 1.5)) == (
        "threads: 2 in the parent, 1 in the child\n"
        "parent:  got the lock\n"
        "child:   still waiting after 1.5 s, and killed"
    )
    assert str(ForkOutcome(3, 1, False, True, 1.0)) == (
        "threads: 3 in the parent, 1 in the child\n"
        "parent:  did not get the lock\n"
        "child:   got the lock"
    )


@FORK
@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_a_wait_takes_time(timeout_s):
    with pytest.raises(ValueError, match="timeout_s must be a finite number"):
        fork_after_threads(timeout_s=timeout_s)
