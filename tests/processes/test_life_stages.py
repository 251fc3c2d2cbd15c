"""thread_life(): the same five lines every time, and nothing left behind."""

import threading

import pytest

from companion.processes import thread_list
from companion.processes.study import life_stages
from companion.processes.study.life_stages import thread_life

EXPECTED = """\
new         is_alive False  not in the list  has not been started
running     is_alive True   running          computes
blocked     is_alive True   sleeping         waits for a lock
sleeping    is_alive True   sleeping         pauses
terminated  is_alive False  not in the list  cannot be started again"""


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.mark.skipif(not thread_list.sys.platform.startswith("linux"), reason="states from /proc")
def test_the_same_lines_every_time():
    for _ in range(8):
        assert "\n".join(map(str, thread_life())) == EXPECTED
        assert "thread-life" not in names()


def test_while_others_are_busy():
    end = threading.Event()

    def spin():
        while not end.is_set():
            pass

    busy = threading.Thread(target=spin)
    busy.start()
    try:
        assert [stage.is_alive for stage in thread_life()] == [False, True, True, True, False]
    finally:
        end.set()
        busy.join()


def test_each_stage_is_seen_where_it_happens(monkeypatch):
    """The function in which the thread is found, asked of the interpreter's own frames."""
    seen, genuine = [], thread_list.threads

    def look():
        found = genuine()
        seen.extend(t.frame.rpartition(" ")[2] for t in found if t.name == "thread-life")
        return found

    monkeypatch.setattr(life_stages, "threads", look)
    stages = thread_life()
    order = list(dict.fromkeys(seen))
    wanted = ["compute", "wait_for_lock", "pause"]
    assert [name for name in order if name in wanted] == wanted
    assert [stage.listed for stage in stages] == [False, True, True, True, False]


def test_where_states_are_not_known(monkeypatch):
    monkeypatch.setattr(thread_list.sys, "platform", "darwin")
    states = [stage.state for stage in thread_life()]
    assert states == [None, "unknown", "unknown", "unknown", None]


def test_a_stage_that_does_not_come(monkeypatch):
    monkeypatch.setattr(life_stages, "_PATIENCE_S", 0.0)
    before = set(threading.enumerate())
    with pytest.raises(TimeoutError, match="no thread running in compute within 0 s"):
        thread_life()
    for thread in set(threading.enumerate()) - before:
        thread.join(100)
        assert not thread.is_alive()
