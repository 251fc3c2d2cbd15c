"""What is left behind by writers that were killed, and what two writers of one file get told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from companion.training import fit
from companion.training.checkpoints import read_checkpoint, write_checkpoint
from companion.training.whole_file import drop_partial, sole_writer, write_whole

POSIX = pytest.mark.skipif(os.name != "posix", reason="locks, modes and SIGKILL are POSIX")
# Writes a checkpoint, and is killed by the system call that would rename safetensors' own file.
KILLED = """
import os, signal, sys, threading, time
import torch
from pathlib import Path
from companion.training.checkpoints import write_checkpoint

def watch():
    while not list(Path(sys.argv[1] + ".partial").glob(".tmp*")):
        time.sleep(0)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
while True:
    write_checkpoint(sys.argv[1], {"t": torch.zeros(20_000_000)})
"""
HOLDS = """
import sys, time
from pathlib import Path
from companion.training.whole_file import sole_writer

with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_step(path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    fit(lambda i: weight.sum(), steps=1, state={"o": optimizer}, checkpoint=path, progress=False)


@POSIX
@pytest.mark.parametrize("next_start", [one_step, lambda path: write_checkpoint(path, {"n": 2})])
def test_the_next_start_removes_what_a_killed_writer_left(tmp_path, next_start):
    path = tmp_path / "run.safetensors"
    process = subprocess.run([sys.executable, "-c", KILLED, path], timeout=120, check=False)
    assert process.returncode == -signal.SIGKILL
    left = [file for file in names(tmp_path) if file != path.name]
    assert left == [f"{path.name}.partial"]
    path.unlink(missing_ok=True)
    next_start(path)
    assert names(tmp_path) == [path.name]


def test_a_file_of_an_older_version_is_removed_too(tmp_path):
    path = tmp_path / "a.txt"
    (tmp_path / "a.txt.partial").write_text("half")
    drop_partial(path)
    assert names(tmp_path) == []
    drop_partial(path)


@POSIX
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_the_mode_is_that_of_any_new_file(tmp_path, mask, mode):
    path = tmp_path / "run.safetensors"
    before = os.umask(mask)
    try:
        write_checkpoint(path, {"n": 1})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


@POSIX
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    link, real = tmp_path / "run.safetensors", tmp_path / "disk" / "real"
    link.symlink_to(real)
    for number in (1, 2):  # to nothing yet, and to a file
        write_checkpoint(link, {"n": number})
        assert link.is_symlink()
        assert read_checkpoint(real) == {"n": number}
    assert names(tmp_path / "disk") == ["real"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fails(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, fails)
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])


@POSIX
def test_two_runs_that_write_one_file(tmp_path):
    path = tmp_path / "run.safetensors"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, path], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=f"the only run that writes {path}, got another one"):
            one_step(path)
        assert not path.exists()
        other.kill()  # the system frees its lock
    one_step(path)
    assert names(tmp_path) == [path.name]


@POSIX
def test_a_run_frees_its_file_also_by_an_error(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match="stop"), sole_writer(path):
        raise ValueError("stop")
    with sole_writer(path), pytest.raises(OSError, match="has not ended"), sole_writer(path):
        pass
    assert names(tmp_path) == []
