"""launch when all goes well, and what it refuses before anything is started."""

import math
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from companion.processes.launching import launch
from companion.processes.ranks.process import threads_of_rank
from companion.processes.study import probes
from tests.processes import ranks_launch as ranks

pytestmark = pytest.mark.usefixtures("nothing_left")

ROOT = Path(__file__).parents[2]


def test_results_in_rank_order():
    results = launch(ranks.who, 5, backend=None)
    assert [result[:2] for result in results] == [(rank, 5) for rank in range(5)]
    assert len({pid for _, _, pid in results} | {os.getpid()}) == 6


def test_where_a_rank_finds_itself(tmp_path, monkeypatch):
    rival = socket.create_server(("127.0.0.1", 0))
    # As if a torchrun had started us, on a port that is taken: a trap for a rendezvous by port.
    for name, value in {"RANK": "6", "WORLD_SIZE": "7", "MASTER_ADDR": "nowhere"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(rival.getsockname()[1]))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    results = launch(ranks.surroundings, 3)
    rival.close()
    for rank, seen in enumerate(results):
        assert seen["sum"] == [3, 3]  # 0 + 1 + 2, and three ones
        assert (seen["rank"], seen["world_size"], seen["backend"]) == (rank, 3, "gloo")
        assert seen["threads"] == threads_of_rank(3)
        assert seen["environment"] == {"RANK": None, "MASTER_PORT": None}
        assert str(tmp_path) in seen["path"]
        assert seen["folder"] == str(tmp_path)
        assert set(seen["listening"]) <= {"127.0.0.1"}
    assert os.environ["RANK"] == "6"


def test_a_rank_may_end_the_group_itself():
    assert launch(ranks.own_group, 1) == [0]


def test_without_a_group_pytorch_is_not_imported():
    assert launch(ranks.imports_torch, 2, backend=None) == [False, False]


@pytest.mark.parametrize(
    ("ours", "ranks", "share"),
    [(None, 1, 6), (None, 2, 3), (None, 4, 1), (None, 8, 1), ("4", 2, 2), ("1", 1, 1), ("9", 1, 6)],
)
def test_each_rank_has_its_share_of_the_threads(monkeypatch, ours, ranks, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if ours:
        monkeypatch.setenv("OMP_NUM_THREADS", ours)
    assert threads_of_rank(ranks) == share


def test_pytorch_is_told_of_the_share(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch(probes.intra_op_threads, 1, backend=None) == [threads_of_rank(1)]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch(probes.intra_op_threads, 1, backend=None) == [1]


def test_tensors_travel_by_value():
    ours = torch.arange(1.0, 4.0)
    results = launch(ranks.scale_in_place, 3, ours, backend=None)
    assert [result.tolist() for result in results] == [[0, 0, 0], [1, 2, 3], [2, 4, 6]]
    assert ours.tolist() == [1, 2, 3]


def test_large_results_and_arguments():
    data = bytes(range(256)) * 40_000  # 10 MB, much more than a pipe holds
    assert launch(ranks.echo, 2, data, backend=None) == [(data,), (data,)]


def test_a_thread_that_never_ends_holds_nobody():
    assert launch(ranks.leave_a_thread, 2, backend=None) == [0, 1]


def test_from_a_thread():
    results = []
    thread = threading.Thread(target=lambda: results.extend(launch(divmod, 2, backend=None)))
    thread.start()
    thread.join()
    assert results == [(0, 0), (0, 1)]


@pytest.mark.parametrize("command", [["script.py"], ["-m", "script"]])
def test_from_a_script(tmp_path, command):
    (tmp_path / "script.py").write_text(
        "from companion.processes.launching import launch\n"
        "def double(rank, world_size):\n    return 2 * rank\n"
        "if __name__ == '__main__':\n    print(launch(double, 3, backend=None))\n"
    )
    done = run_in(tmp_path, *command)
    assert (done.stdout, done.stderr) == ("[0, 2, 4]\n", "")


def test_from_a_script_without_a_main_guard(tmp_path):
    (tmp_path / "script.py").write_text(
        "from companion.processes.launching import launch\nlaunch(divmod, 1, backend=None)\n"
    )
    done = run_in(tmp_path, "script.py")
    assert done.returncode == 1
    assert "without `if __name__" in done.stderr


def test_from_a_command_line(tmp_path):
    code = "from companion.processes.launching import launch; print(launch(divmod, 2, backend=None)"
    assert run_in(tmp_path, "-c", code + ")").stdout == "[(0, 0), (0, 1)]\n"


def run_in(folder, *command):
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


# What cannot be launched


def nested():
    def inner(rank, world_size):
        return rank

    return inner


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda rank, world_size: rank, "a lambda: make it a function of a module"),
        (nested(), "defined within a function: move it to the top of a module"),
        (threading.Lock().acquire, "fn: expected what can be pickled"),
    ],
)
def test_functions_that_cannot_be_imported(fn, message):
    with pytest.raises(ValueError, match=message):
        launch(fn, 2, backend=None)


def test_a_function_of_a_notebook(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(nested, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "nested", nested, raising=False)
    with pytest.raises(ValueError, match="in a notebook or at a prompt: move it to a module"):
        launch(nested, 2, backend=None)


def test_arguments_that_cannot_be_pickled():
    with pytest.raises(ValueError, match="the arguments of echo: expected what can be pickled"):
        launch(ranks.echo, 2, threading.Lock(), backend=None)
    with pytest.raises(ValueError, match=r"cannot import .*<lambda>, a lambda"):
        launch(ranks.echo, 2, [lambda: 0], backend=None)


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"fn": 3}, TypeError, "fn must be a function, got int"),
        ({"world_size": 0}, ValueError, "world_size must be at least 1, got 0"),
        ({"world_size": 2.0}, TypeError, "world_size: expected an integer, got 2.0"),
        ({"world_size": True}, TypeError, "world_size: expected an integer, got True"),
        ({"timeout_s": 0}, ValueError, "timeout_s must be a finite number more than 0, got 0"),
        (
            {"timeout_s": math.nan},
            ValueError,
            "timeout_s must be .* more than 0, got nan",
        ),
        ({"timeout_s": "1"}, TypeError, "timeout_s: expected a number, got '1'"),
        ({"backend": "mpi"}, ValueError, "backend must be one of .*, got 'mpi'"),
    ],
)
def test_wrong_arguments(changed, kind, message):
    with pytest.raises(kind, match=message):
        launch(**{"fn": divmod, "world_size": 2, **changed})


def test_nccl_needs_a_device_for_each_rank():
    too_many = torch.cuda.device_count() + 1
    with pytest.raises(ValueError, match=f"a CUDA device for each of {too_many} ranks, got"):
        launch(divmod, too_many, backend="nccl")
