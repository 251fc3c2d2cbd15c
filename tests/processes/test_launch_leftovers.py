"""Ctrl-C, a killed parent, many launches: nothing is left running and nothing lies about."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from jupyter_client import KernelManager

from companion.processes.launching import launch
from companion.processes.ranks.failures import RankFailed
from tests.processes import ranks_launch as ranks

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("nothing_left")
def test_many_launches_in_a_row():
    for number in range(12):
        assert launch(divmod, 2, backend=None) == [(0, 0), (0, 1)]
        if number % 4 == 0:
            with pytest.raises(RankFailed, match="rank 1 of 2 was killed by SIGKILL"):
                launch(ranks.end, 2, "kill", backend=None)
        if number % 6 == 0:
            assert launch(ranks.own_group, 2) == [0, 1]


@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_ends_all_ranks(tmp_path, gone):
    """The handler of this process raises, as it would at a prompt, after the ranks have ended."""
    pids = []

    def interrupt():
        pids.extend(started(tmp_path, 2))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        launch(ranks.sleep_with_children, 2, str(tmp_path), backend=None)
    thread.join()
    assert len(pids) == 4
    assert gone(*pids)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.06, 0.1])
def test_ctrl_c_while_ranks_start(tmp_path, after_s):
    """SIGINT to the whole process group, as from a terminal, at any moment of a launch."""
    code = """
        import os, signal, threading
        from companion.processes.launching import launch
        from tests.processes.ranks_launch import sleep_with_children
        try:
            threading.Timer({after_s}, os.killpg, (0, signal.SIGINT)).start()
            launch(sleep_with_children, 3, {folder!r}, backend=None)
        except KeyboardInterrupt:
            print("interrupted")
    """
    program = script(tmp_path, code.format(after_s=after_s, folder=str(tmp_path)))
    output, errors = program.communicate(timeout=200)
    assert output == "interrupted\n"
    assert errors == ""  # no rank prints a traceback


@pytest.mark.parametrize("backend", [None, "gloo"])
def test_a_killed_parent_takes_its_ranks_along(tmp_path, gone, backend):
    code = f"""
        from companion.processes.launching import launch
        from tests.processes.ranks_launch import sleep_with_children
        launch(sleep_with_children, 2, {str(tmp_path)!r}, backend={backend!r})
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = script(tmp_path, code, TMPDIR=str(temporary))
    pids = started(tmp_path, 2)
    assert len(list(temporary.iterdir())) == 1
    program.kill()
    _, errors = program.communicate()
    assert gone(*pids)
    assert list(temporary.iterdir()) == []
    assert errors == ""


def test_ctrl_c_in_a_notebook_cell(tmp_path, gone):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "TMPDIR": str(temporary)}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT), env=os.environ | environment)
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=200)
        asked = client.execute(
            "from companion.processes.launching import launch\n"
            "from tests.processes import ranks_launch as ranks\n"
            f"launch(ranks.sleep_with_children, 2, {str(tmp_path)!r}, backend=None)"
        )
        pids = started(tmp_path, 2)
        manager.interrupt_kernel()
        reply = answer(client, asked)
        assert reply["ename"] == "KeyboardInterrupt"
        assert gone(*pids)
        # The kernel lives, and can launch again; a function of a cell it cannot.
        answers = {
            "n": "len(launch(ranks.who, 2, backend=None))",
            "children": "[c.cmdline() for c in __import__('psutil').Process().children()]",
        }
        reply = client.execute_interactive(
            "def mine(rank, world_size): return rank", user_expressions=answers, timeout=200
        )
        seen = reply["content"]["user_expressions"]
        assert seen["n"]["data"]["text/plain"] == "2"
        assert "spawn_main" not in seen["children"]["data"]["text/plain"]
        reply = client.execute_interactive("launch(mine, 2)", timeout=200, output_hook=lambda _: 0)
        assert reply["content"]["ename"] == "ValueError"
        assert "defined in a notebook or at a prompt" in reply["content"]["evalue"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert not list(temporary.glob("companion-ranks-*"))


def answer(client, asked):
    """The reply to one request: on a busy machine those to `wait_for_ready` may come before it."""
    while (reply := client.get_shell_msg(timeout=200))["parent_header"]["msg_id"] != asked:
        pass
    return reply["content"]


def script(folder, code, **environment):
    """A program in a process group of its own."""
    path = Path(folder, "program.py")
    lines = textwrap.indent(textwrap.dedent(code), "    ")
    path.write_text(f"if __name__ == '__main__':\n{lines}")
    return subprocess.Popen(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def started(folder, world_size):
    """Wait for ranks that run ``sleep_with_children``: their processes and their children's."""
    files = [Path(folder, str(rank)) for rank in range(world_size)]
    end = time.monotonic() + 100
    while not all(file.exists() and file.read_text().endswith("\n") for file in files):
        assert time.monotonic() < end, "the ranks did not start"
        time.sleep(0.02)
    return [int(pid) for file in files for pid in file.read_text().split()]
