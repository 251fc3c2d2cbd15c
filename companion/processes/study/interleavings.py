"""All orders in which W workers can do ``counter += 1``, and on what number each order ends.

    number of orders = (3 n W)! / ((3 n)!)^W     n increments by each of W workers

Orders that have led to the same state are counted together from there on, so all of them are
tried without being listed.

Chapter: course/10_processes.ipynb.  Dimension key: W workers.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from companion.checks import check_count
from companion.processes.lost_update import STEPS

__all__ = ["all_interleavings"]


class _State(NamedTuple):
    done: tuple[int, ...]
    """Steps that each worker has done."""
    local: tuple[int, ...]
    """Their private copies."""
    counter: int


def all_interleavings(increments: int, *, workers: int = 2) -> dict[int, int]:
    """Try every order of the steps load, add, store without a lock.

    The work grows with the number of states, steeply with W, not with the number of orders.

    Args:
        increments: n, how often each worker adds 1, at least 1.
        workers: W, at least 1.

    Returns:
        End value of the counter → number of orders that end on it, in order of the values.

    Raises:
        TypeError, ValueError: If a number is no int or below 1.

    Example:
        >>> all_interleavings(1, workers=2)
        {1: 18, 2: 2}
    """
    check_count("increments", increments)
    check_count("workers", workers)
    steps = len(STEPS) * increments
    orders = Counter({_State((0,) * workers, (0,) * workers, 0): 1})
    for _ in range(steps * workers):
        longer: Counter[_State] = Counter()
        for state, count in orders.items():
            for after in _next_states(state, steps):
                longer[after] += count
        orders = longer
    ends: Counter[int] = Counter()
    for state, count in orders.items():
        ends[state.counter] += count
    return dict(sorted(ends.items()))


def _next_states(state: _State, steps: int) -> Iterator[_State]:
    for worker, done in enumerate(state.done):
        if done == steps:
            continue
        local, counter = state.local[worker], state.counter
        match STEPS[done % len(STEPS)]:
            case "load":
                local = counter
            case "add":
                local += 1
            case "store":
                counter, local = local, 0  # the copy is not used again: one state, not many
        yield _State(
            _replaced(state.done, worker, done + 1), _replaced(state.local, worker, local), counter
        )


def _replaced(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
