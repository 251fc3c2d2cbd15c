"""find_deadlock(): rings that we tie by hand, waits that are no rings, and networkx."""

import re
import threading
import time
from contextlib import ExitStack

import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.processes.study.lock_pair import two_locks
from companion.processes.traced_lock import BOOK, DeadlockBroken, TracedLock
from companion.processes.wait_graph import WaitEdge, WaitGraph, find_deadlock, find_ring


@pytest.fixture(autouse=True)
def _nobody_waits_any_more():
    yield
    assert (BOOK.holders, BOOK.waits) == ({}, {})
    assert not [t for t in threading.enumerate() if t.name.startswith(("two-locks", "guest"))]


class Table:
    """Guests at a table of locks: each holds one and then asks for another."""

    def __init__(self) -> None:
        self.locks: dict[str, TracedLock] = {}
        self.ends: dict[str, str] = {}
        self.crew: list[threading.Thread] = []

    def seat(self, name: str, holds: str | None, wants: str | None, *, timeout_s=None, until=None):
        """Start a guest; comes back when it has what it holds and waits for what it wants."""
        for lock in (holds, wants):
            if lock is not None:
                self.locks.setdefault(lock, TracedLock(lock))
        ready = threading.Event()
        args = (name, self.locks.get(holds), self.locks.get(wants), timeout_s, until, ready)
        thread = threading.Thread(target=self._dine, args=args, name=name, daemon=True)
        self.crew.append(thread)
        thread.start()
        assert ready.wait(100)
        if wants is not None and until is None:
            self.await_waiting(thread)

    def await_waiting(self, thread: threading.Thread) -> None:
        with BOOK.changed:
            assert BOOK.changed.wait_for(lambda: thread in BOOK.waits, 10)

    def _dine(self, name, holds, wants, timeout_s, until, ready) -> None:
        try:
            with ExitStack() as stack:
                if holds is not None:
                    stack.enter_context(holds)
                ready.set()
                if until is not None:
                    until.wait(100)
                if wants is None:
                    self.ends[name] = "finished"
                elif wants.acquire(timeout_s=timeout_s):
                    wants.release()
                    self.ends[name] = "finished"
                else:
                    self.ends[name] = "timed out"
        except DeadlockBroken:
            self.ends[name] = "broken"

    def join(self) -> dict[str, str]:
        for thread in self.crew:
            thread.join(100)
            assert not thread.is_alive()
        return self.ends


@pytest.fixture
def table():
    return Table()


# Two locks


def test_the_report():
    with two_locks(order="opposite"):
        graph = find_deadlock(timeout_s=250)
        assert str(graph) == (
            "deadlock: 2 threads wait for one another\n"
            "two-locks-1 holds A and waits for B\n"
            "    in _a_then_b (lock_pair.py): with b:\n"
            "two-locks-2 holds B and waits for A\n"
            "    in _b_then_a (lock_pair.py): with a:"
        )
        assert graph.cycle == ("two-locks-1", "B", "two-locks-2", "A")
        assert graph.edges == (
            WaitEdge("two-locks-1", "B", "two-locks-2"),
            WaitEdge("two-locks-2", "A", "two-locks-1"),
        )


def test_the_stacks_lead_to_the_line():
    with two_locks(order="opposite"):
        stacks = find_deadlock(timeout_s=250).stacks
    assert stacks.keys() == {"two-locks-1", "two-locks-2"}
    for name, function in (("two-locks-1", "_a_then_b"), ("two-locks-2", "_b_then_a")):
        last = stacks[name].rstrip().splitlines()[-2:]
        assert re.search(rf'lock_pair\.py", line \d+, in {function}$', last[0])
        assert "traced_lock.py" not in stacks[name]


def test_the_same_report_every_time():
    reports = set()
    for _ in range(20):
        with two_locks(order="opposite"):
            reports.add(str(find_deadlock(timeout_s=250)))
    assert len(reports) == 1


def test_leaving_the_block_ends_both(nothing_left):
    with two_locks(order="opposite") as ends:
        assert ends == {}
    assert ends == {"two-locks-1": "broken", "two-locks-2": "broken"}


def test_an_error_in_the_block_ends_both_too(nothing_left):
    with pytest.raises(KeyError), two_locks(order="opposite") as ends:
        raise KeyError
    assert set(ends.values()) == {"broken"}


def test_breaking_by_hand():
    with two_locks(order="opposite") as ends:
        graph = find_deadlock(timeout_s=250)
        assert graph.break_() == 2
        assert find_deadlock(timeout_s=0) is None
    assert set(ends.values()) == {"broken"}
    assert graph.break_() == 0


def test_with_one_order_nobody_waits_for_ever(nothing_left):
    for _ in range(20):
        with two_locks(order="same") as ends:
            assert find_deadlock(timeout_s=0.005) is None
        assert ends == {"two-locks-1": "finished", "two-locks-2": "finished"}


def test_there_are_two_orders():
    with (
        pytest.raises(ValueError, match=r"order must be .* got 'reverse'"),
        two_locks(order="reverse"),
    ):
        pass


# Other rings


def test_three_at_a_round_table(table):
    all_have_one = threading.Event()
    for name, holds, wants in (("guest b", "2", "3"), ("guest c", "3", "1"), ("guest a", "1", "2")):
        table.seat(name, holds, wants, until=all_have_one)
    all_have_one.set()
    graph = find_deadlock(timeout_s=250)
    assert graph.cycle == ("guest a", "2", "guest b", "3", "guest c", "1")
    lines = str(graph).splitlines()
    assert lines[0] == "deadlock: 3 threads wait for one another"
    assert [line for line in lines[1:] if not line.startswith(" ")] == [
        "guest a holds 1 and waits for 2",
        "guest b holds 2 and waits for 3",
        "guest c holds 3 and waits for 1",
    ]
    assert graph.break_() == 3
    assert table.join() == dict.fromkeys(("guest a", "guest b", "guest c"), "broken")


def test_a_thread_that_waits_for_itself(table):
    table.seat("guest", "spoon", "spoon")
    graph = find_deadlock(timeout_s=250)
    assert graph.cycle == ("guest", "spoon")
    assert str(graph).startswith(
        "deadlock: a thread waits for itself\nguest holds spoon and waits for spoon\n    in _dine"
    )
    graph.break_()
    assert table.join() == {"guest": "broken"}


def test_who_waits_outside_the_ring_goes_on_when_it_is_broken(table):
    table.seat("guest a", "1", "2", until=(late := threading.Event()))
    table.seat("guest 0", "3", "1")  # leads into the ring that follows; first by name
    table.seat("guest b", "2", "1")
    late.set()
    graph = find_deadlock(timeout_s=250)
    assert graph.cycle == ("guest a", "2", "guest b", "1")
    assert graph.edges[2:] == (WaitEdge("guest 0", "1", "guest a"),)
    assert str(graph).splitlines()[-1] == "guest 0 waits too, for 1, held by guest a"
    assert len(graph.stacks) == 2
    assert graph.break_() == 2
    assert table.join() == {"guest 0": "finished", "guest a": "broken", "guest b": "broken"}


# No ring


def test_a_chain_is_no_ring(table):
    table.seat("guest 1", "1", None, until=(end := threading.Event()))
    table.seat("guest 2", "2", "1")
    table.seat("guest 3", "3", "2")
    assert find_deadlock(timeout_s=0.05) is None
    end.set()
    assert set(table.join().values()) == {"finished"}


def test_a_wait_that_ends_by_itself_closes_no_ring(table):
    table.seat("guest a", "1", "2", timeout_s=0.3, until=(late := threading.Event()))
    table.seat("guest b", "2", "1")
    late.set()
    table.await_waiting(table.crew[0])
    assert find_deadlock(timeout_s=0.05) is None
    assert table.join() == {"guest a": "timed out", "guest b": "finished"}


# Time


def test_a_deadlock_that_comes_while_we_watch(table):
    table.seat("guest a", "1", "2", until=(late := threading.Event()))
    table.seat("guest b", "2", "1")
    threading.Timer(0.2, late.set).start()
    start = time.monotonic()
    graph = find_deadlock(timeout_s=200)
    assert 0.1 < time.monotonic() - start < 100
    graph.break_()
    assert set(table.join().values()) == {"broken"}


def test_without_one_the_time_is_used_up():
    start = time.monotonic()
    assert find_deadlock(timeout_s=0.1) is None
    assert 0.1 <= time.monotonic() - start < 60


@pytest.mark.parametrize("bad", [-0.1, float("nan")])
def test_no_time(bad):
    with pytest.raises(ValueError, match=f"timeout_s must be a finite number in .*, got {bad}"):
        find_deadlock(bad)


# The ring in a graph


@settings(max_examples=300)
@given(st.dictionaries(st.integers(0, 8), st.integers(0, 8)))
def test_rings_against_networkx(next_of):
    rings = {frozenset(ring) for ring in networkx.simple_cycles(networkx.DiGraph(next_of.items()))}
    found = find_ring(next_of)
    assert (frozenset(found) in rings) if rings else (found == [])
    assert len(found) == len(set(found))
    for node, after in zip(found, [*found[1:], *found[:1]], strict=True):
        assert next_of[node] == after


# The picture


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_drawing(size):
    cycle = tuple(part for n in range(size) for part in (f"thread-{n}", f"L{n}"))
    before = mpl.get_backend()
    plt.switch_backend("Agg")
    try:
        figure = WaitGraph(edges=(), cycle=cycle, stacks={}, places=(), waits=()).draw()
        (axes,) = figure.axes
        words = [text.get_text() for text in axes.texts if text.get_text()]
        arrows = [a.arrow_patch for a in axes.texts if getattr(a, "arrow_patch", None) is not None]
        figure.canvas.draw()
    finally:
        plt.close("all")
        plt.switch_backend(before)
    boxes = [name for n in range(size) for name in (f"thread-{n}", f"lock L{n}")]
    assert words == boxes + ["waits for", "is held by"] * size
    assert len(arrows) == 2 * size
    for number, arrow in enumerate(arrows):  # each leads from its box to the next
        assert arrow.patchA is axes.texts[number].get_bbox_patch()
        assert arrow.patchB is axes.texts[(number + 1) % (2 * size)].get_bbox_patch()
