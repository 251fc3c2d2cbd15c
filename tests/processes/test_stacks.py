"""A rank's stack may be read while the rank is still writing it."""

import subprocess
import sys
import textwrap

import pytest

from companion.processes.ranks.stacks import read_stack

FUNCTION = """
    import signal

    def called(times):
        if times > 1:
            called(times - 1)
        else:
            signal.raise_signal(signal.SIGUSR1)
"""
OURS = """
    import sys, threading
    from pathlib import Path
    from companion.processes.ranks.stacks import answer_with_stack
    from function import called

    end = threading.Event()
    threading.Thread(target=end.wait).start()
    with answer_with_stack(Path("stack")):
        called(int(sys.argv[1]))
    end.set()
"""


# The system keeps the innermost hundred frames of a thread: ours are not among those of 300.
@pytest.mark.parametrize(("times", "kept", "step"), [(3, 3, 1), (300, 100, 97)])
def test_a_stack_is_read_whole_or_not_at_all(tmp_path, monkeypatch, times, kept, step):
    monkeypatch.chdir(tmp_path)
    for name, text in [("function.py", FUNCTION), ("ours.py", OURS)]:
        (tmp_path / name).write_text(textwrap.dedent(text))
    subprocess.run([sys.executable, "ours.py", str(times)], check=True, timeout=100)
    stack = tmp_path / "stack"
    text = stack.read_text()
    whole = read_stack(stack, below="ours.py")
    assert whole.count("in called\n") == kept
    assert "threading.py" in text
    assert "threading.py" not in whole

    read = []
    for length in [*range(0, len(text), step), len(text)]:
        stack.write_text(text[:length])
        read.append(read_stack(stack, below="ours.py"))
    assert set(read) == {"", whole}
    assert read.count("") > len(read) / 2
