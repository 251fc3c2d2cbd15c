"""Deadlocks: a ring in the graph "thread waits for lock, lock is held by thread".

A thread waits for one lock at a time and a lock has one holder, so from each thread at most one
arrow leads on. Threads that wait for ever are those whose arrows close to a ring, and those whose
arrows lead into one.

Source: Coffman, Elphick and Shoshani 1971, "System deadlocks", ACM Computing Surveys 3(2), §2.
Chapter: course/10_processes.ipynb.
"""

import sys
import threading
import traceback
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from companion.checks import check_number
from companion.processes import traced_lock
from companion.processes.traced_lock import BOOK, TracedLock, Wait

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WaitEdge", "WaitGraph", "find_deadlock", "find_ring"]

Node = TypeVar("Node", bound=Hashable)
_OURS = (threading.__file__, traced_lock.__file__, __file__)  # frames that explain nothing


class WaitEdge(NamedTuple):
    """One thread that waits, and why. All are names."""

    thread: str
    lock: str
    holder: str


@dataclass(frozen=True)
class WaitGraph:
    """A deadlock: who waits for whom, at one moment."""

    edges: tuple[WaitEdge, ...]
    """Everybody who waited for a traced lock, those in the ring first, in the ring's order."""
    cycle: tuple[str, ...]
    """The ring: thread, lock that it wants, the lock's holder, and so on; begins with the thread
    whose name comes first."""
    stacks: dict[str, str]
    """Name of a thread in the ring → its stack, innermost call last, with line numbers."""
    places: tuple[str, ...] = field(repr=False)
    """For each thread in the ring, where it asks: function, file and line of code."""
    waits: tuple[Wait, ...] = field(repr=False)

    def __str__(self) -> str:
        size = len(self.places)
        head = "a thread waits for itself" if size == 1 else f"{size} threads wait for one another"
        lines = [f"deadlock: {head}"]
        for number, (edge, place) in enumerate(zip(self.edges, self.places, strict=False)):
            held = self.edges[number - 1].lock  # what the one before wants
            lines += [f"{edge.thread} holds {held} and waits for {edge.lock}", f"    in {place}"]
        lines += [
            f"{edge.thread} waits too, for {edge.lock}, held by {edge.holder}"
            for edge in self.edges[size:]
        ]
        return "\n".join(lines)

    def break_(self) -> int:
        """End the deadlock: ``DeadlockBroken`` is raised in every thread of the ring.

        Returns:
            How many of them were still waiting.
        """
        return BOOK.break_waits(self.waits)

    def draw(self) -> "Figure":
        """Draw the ring as boxes and arrows."""
        # Ranks import this package too and draw nothing: matplotlib costs them half a second.
        from companion.processes.study.wait_graph_figure import draw_wait_graph

        return draw_wait_graph(self)


def find_deadlock(timeout_s: float) -> WaitGraph | None:
    """Watch all traced locks until some threads are deadlocked or the time is over.

    One look is enough: in a ring nobody can release what the next one wants. A wait with a
    timeout ends by itself and closes no ring. Locks of other kinds are not seen, and neither is
    a thread that waits for a lock whose holder has ended.

    Args:
        timeout_s: How long to watch, in s; 0 looks once.

    Returns:
        The deadlock, or None if there was none.

    Raises:
        ValueError: If the timeout is negative.

    Example:
        >>> print(find_deadlock(timeout_s=0))
        None
    """
    check_number("timeout_s", timeout_s, least=0, most=threading.TIMEOUT_MAX)
    with BOOK.changed:
        if not BOOK.changed.wait_for(_ring, timeout_s):
            return None
        return _graph(_ring())


def find_ring(next_of: Mapping[Node, Node]) -> list[Node]:
    """A ring in a graph in which at most one arrow leaves each node; [] if there is none.

    Args:
        next_of: Node → the node to which its arrow leads.

    Example:
        >>> find_ring({"a": "b", "b": "c", "c": "b"})
        ['b', 'c']
    """
    finished: set[Node] = set()
    for start in next_of:
        path: dict[Node, None] = {}  # a set that keeps the order
        node = start
        while node in next_of and node not in path and node not in finished:
            path[node] = None
            node = next_of[node]
        if node in path:
            nodes = list(path)
            return nodes[nodes.index(node) :]
        finished.update(path)
    return []


def _ring() -> list[threading.Thread]:
    """The threads of a ring, each waiting for a lock of the next. The book must be ours."""
    return find_ring(
        {
            thread: BOOK.holders[wait.lock]
            for thread, wait in BOOK.waits.items()
            # A lock just released has no holder yet; whoever's wait is broken is about to go.
            if not wait.timed and not wait.broken and wait.lock in BOOK.holders
        }
    )


def _graph(ring: list[threading.Thread]) -> WaitGraph:
    first = min(range(len(ring)), key=lambda place: ring[place].name)
    ring = ring[first:] + ring[:first]
    others = sorted(set(BOOK.waits) - set(ring), key=lambda thread: thread.name)
    edges = [_edge(t, BOOK.waits[t].lock) for t in ring + others]
    stacks = [_stack(thread) for thread in ring]
    return WaitGraph(
        edges=tuple(edge for edge in edges if edge is not None),
        cycle=tuple(name for t in ring for name in (t.name, BOOK.waits[t].lock.name)),
        stacks={
            thread.name: "".join(stack.format()) for thread, stack in zip(ring, stacks, strict=True)
        },
        places=tuple(_place(stack) for stack in stacks),
        waits=tuple(BOOK.waits[thread] for thread in ring),
    )


def _edge(thread: threading.Thread, lock: TracedLock) -> WaitEdge | None:
    holder = BOOK.holders.get(lock)
    return None if holder is None else WaitEdge(thread.name, lock.name, holder.name)


def _stack(thread: threading.Thread) -> traceback.StackSummary:
    frame = sys._current_frames().get(thread.ident)
    frames = traceback.extract_stack(frame)
    return traceback.StackSummary.from_list(f for f in frames if f.filename not in _OURS)


def _place(stack: traceback.StackSummary) -> str:
    if not stack:
        return "unknown code"
    frame = stack[-1]
    return f"{frame.name} ({Path(frame.filename).name}): {frame.line}"
