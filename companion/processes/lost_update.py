"""A race on purpose: ``counter += 1`` in its three steps, run by real threads in a given order.

    load    local ← counter
    add     local ← local + 1
    store   counter ← local

Before each step a thread waits for its turn, so the same schedule gives the same end every time.

Source: Python documentation, module dis, for the steps. Chapter: course/10_processes.ipynb.
Dimension key: W workers.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

from companion.checks import check_count, typed

__all__ = ["Interleaving", "RaceResult", "Step", "race"]

STEPS = ("load", "add", "store")
_MOST_WORKERS = 64


class Step(NamedTuple):
    """One turn of one worker, and what there was after it."""

    worker: int
    action: str
    """"load", "add", "store", or "waits" for the lock."""
    local: int | None
    """The worker's private copy; None while it waits."""
    counter: int


class Interleaving(tuple[Step, ...]):
    """All steps in the order in which they were done; prints as a table.

    Example:
        >>> print(Interleaving([Step(0, "load", 0, 0), Step(1, "waits", None, 0)]))
        step  worker  action  private copy  counter
           1       0  load               0        0
           2       1  waits              -        0
    """

    __slots__ = ()

    def __str__(self) -> str:
        lines = ["step  worker  action  private copy  counter"]
        for number, step in enumerate(self, start=1):
            copy = "-" if step.local is None else step.local
            lines.append(
                f"{number:4}  {step.worker:6}  {step.action:6}  {copy:>12}  {step.counter:7}"
            )
        return "\n".join(lines)


class RaceResult(NamedTuple):
    """How a race ended."""

    observed: int
    """The counter at the end."""
    expected: int
    """W · increments, what it would be if no update were lost."""
    interleaving: Interleaving


@typed
def race(
    increments: int, *, workers: int, lock: bool, schedule: Sequence[int] | None = None
) -> RaceResult:
    """Let W threads add 1 to a shared counter, each ``increments`` times, in a given order.

    Args:
        increments: How often each worker adds 1, at least 1.
        workers: W, in [1, 64].
        lock: Put a lock around the three steps. A worker whose turn comes while another holds
            the lock uses up its turn with waiting; when the schedule is over, the workers finish
            one after the other, the holder of the lock first.
        schedule: Whose turn it is, a worker's number per step; each worker comes
            3 · ``increments`` times. None: in turn, 0 1 … W−1 0 1 …, so that all load before any
            stores, and without a lock only one update of W survives (observed = increments).

    Raises:
        TypeError: If a number is no int.
        ValueError: If a number is out of its range, or a worker does not come as often as it must.

    Example:
        >>> race(1, workers=2, lock=False).observed, race(1, workers=2, lock=True).observed
        (1, 2)
    """
    check_count("increments", increments)
    check_count("workers", workers, most=_MOST_WORKERS)
    turns = len(STEPS) * increments
    if schedule is None:
        schedule = list(range(workers)) * turns
    _check_schedule(schedule, workers=workers, turns=turns)
    table = _Table(schedule, workers=workers, turns=turns, lock=lock)
    names = [f"race-{worker}" for worker in range(workers)]
    crew = [
        threading.Thread(target=table.work, args=(worker, increments), name=name, daemon=True)
        for worker, name in enumerate(names)
    ]
    try:
        for thread in crew:
            thread.start()
        table.pass_on()
        for thread in crew:
            thread.join()
    finally:
        table.stop()  # only after an interrupt is there anybody left to stop
    return RaceResult(table.counter, workers * increments, Interleaving(table.done))


class _Stopped(Exception):
    """The race was given up."""


class _Table:
    """The counter and whose turn it is; only the worker that has the turn touches it."""

    def __init__(self, schedule: Sequence[int], *, workers: int, turns: int, lock: bool) -> None:
        self.counter = 0
        self.done: list[Step] = []
        self.turns = iter(schedule)
        self.left = [turns] * workers  # steps that each still has to do
        self.lock = threading.Lock() if lock else None
        self.holder: int | None = None
        self.go = [threading.Semaphore(0) for _ in range(workers)]
        self.stopped = False

    def work(self, worker: int, increments: int) -> None:
        try:
            for _ in range(increments):
                self._increment(worker)
        except _Stopped:
            pass

    def _increment(self, worker: int) -> None:
        self._my_turn(worker)
        while not self._take_lock(worker):
            self._note(worker, "waits", None)
            self._my_turn(worker)
        local = self.counter
        self._note(worker, "load", local)
        self._my_turn(worker)
        local += 1
        self._note(worker, "add", local)
        self._my_turn(worker)
        self.counter = local
        if self.lock is not None:
            self.holder = None
            self.lock.release()
        self._note(worker, "store", local)

    def _take_lock(self, worker: int) -> bool:
        if self.lock is None:
            return True
        # Not blocking: a worker that slept in here would keep the turn, and nobody could go on.
        if not self.lock.acquire(blocking=False):
            return False
        self.holder = worker
        return True

    def _my_turn(self, worker: int) -> None:
        self.go[worker].acquire()
        if self.stopped:
            raise _Stopped

    def _note(self, worker: int, action: str, local: int | None) -> None:
        self.done.append(Step(worker, action, local, self.counter))
        self.left[worker] -= action != "waits"
        self.pass_on()

    def pass_on(self) -> None:
        """Give the turn to the next worker, if there is one."""
        worker = next(self.turns, None)
        if worker is None:  # turns were used up with waiting: finish
            unfinished = [w for w, left in enumerate(self.left) if left]
            worker = self.holder if self.holder is not None else next(iter(unfinished), None)
        if worker is not None:
            self.go[worker].release()

    def stop(self) -> None:
        self.stopped = True
        for turn in self.go:
            turn.release()


def _check_schedule(schedule: Sequence[int], *, workers: int, turns: int) -> None:
    for place, worker in enumerate(schedule):
        check_count(f"schedule[{place}]", worker, least=0, most=workers - 1)
    for worker in range(workers):
        came = sum(turn == worker for turn in schedule)
        if came != turns:
            raise ValueError(
                f"schedule: expected worker {worker} to come {turns} times "
                f"(load, add and store for each increment), got {came} times"
            )
