"""What tests of processes share: a look at what was left behind."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def gone() -> Callable[..., bool]:
    """Whether all these processes end soon."""

    def look(*pids: int, within_s: float = 100.0) -> bool:
        end = time.monotonic() + within_s
        while any(_lives(pid) for pid in pids):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    return look


@pytest.fixture
def nothing_left(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No child, shared memory, file, port, descriptor or thread more than before the test.

    Other tests run beside us: temporary files go to a folder of our own, and shared memory counts
    only if its maker is one of us or has ended.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it stays until we end, and so does its pipe
    folder = str(tmp_path_factory.mktemp("temporary"))
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    before = _belongings()
    yield
    after = _belongings()
    assert {kind: after[kind] - before[kind] for kind in after} == {kind: set() for kind in after}


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _belongings() -> dict[str, set]:
    this = psutil.Process()
    shared, temporary = Path("/dev/shm"), Path(tempfile.gettempdir())
    return {
        "children": {child.pid for child in this.children(recursive=True)},
        "shared memory": {
            path.name for path in shared.glob("companion-*") if not _of_others(path.name, this)
        },
        "files": {path.name for path in temporary.iterdir()},
        "ports": {c.laddr for c in this.net_connections("tcp") if c.status == "LISTEN"},
        "descriptors": {fd for fd in range(4096) if _is_open(fd)},
        "threads": {thread.ident for thread in threading.enumerate()},
    }


def _of_others(name: str, this: psutil.Process) -> bool:
    try:
        maker = psutil.Process(int(name.split("-")[1]))
        return maker != this and this not in maker.parents()
    except psutil.NoSuchProcess:
        return False


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
