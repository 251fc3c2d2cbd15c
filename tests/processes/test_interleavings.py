"""all_interleavings(): against every order listed one by one, and closed forms."""

import dis
import itertools
from collections import Counter
from math import factorial

import pytest

from companion.processes.study.interleavings import all_interleavings


def multinomial(each: int, workers: int) -> int:
    return factorial(each * workers) // factorial(each) ** workers


def orders(turns: list[int]):
    """Every different order, one by one, by choosing who goes first."""
    if not any(turns):
        yield ()
    for worker, left in enumerate(turns):
        if left:
            rest = [*turns[:worker], left - 1, *turns[worker + 1 :]]
            yield from ((worker, *order) for order in orders(rest))


def end_of(order: tuple[int, ...]) -> int:
    """By where each worker's loads stand: what is stored is what was there at the load, plus 1."""
    counter, turns, at_load = 0, Counter(), {}
    for worker in order:
        if turns[worker] % 3 == 0:
            at_load[worker] = counter
        if turns[worker] % 3 == 2:
            counter = at_load[worker] + 1
        turns[worker] += 1
    return counter


@pytest.mark.parametrize(("increments", "workers"), [(1, 1), (3, 1), (1, 2), (2, 2), (1, 3)])
def test_every_order_one_by_one(increments, workers):
    listed = Counter(end_of(order) for order in orders([3 * increments] * workers))
    assert all_interleavings(increments, workers=workers) == listed


def test_the_right_ones_of_twenty():
    right = [order for order in orders([3, 3]) if end_of(order) == 2]
    assert right == [(0, 0, 0, 1, 1, 1), (1, 1, 1, 0, 0, 0)]


@pytest.mark.parametrize(
    ("increments", "workers"), [(1, 2), (2, 2), (3, 2), (5, 2), (1, 4), (2, 3)]
)
def test_closed_forms(increments, workers):
    ends = all_interleavings(increments, workers=workers)
    assert sum(ends.values()) == multinomial(3 * increments, workers)
    # Nothing is lost exactly if every increment's three steps stand together.
    assert ends[increments * workers] == multinomial(increments, workers)
    assert list(ends) == list(range(min(ends), increments * workers + 1))


@pytest.mark.parametrize("increments", [2, 3, 4, 5, 6])
def test_two_workers_can_end_on_two_and_on_nothing_less(increments):
    assert min(all_interleavings(increments, workers=2)) == 2


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_with_one_increment_each_all_but_one_can_be_lost(workers):
    assert min(all_interleavings(1, workers=workers)) == 1


def test_the_three_steps_are_those_of_the_bytecode():
    code = compile("global counter\ncounter += 1", "<counter>", "exec")
    names = [step.opname for step in dis.get_instructions(code)]
    touching = [n.partition("_")[0] for n in names if n in ("LOAD_GLOBAL", "LOAD_NAME")]
    touching += [n for n in names if n == "BINARY_OP"]
    touching += [n.partition("_")[0] for n in names if n in ("STORE_GLOBAL", "STORE_NAME")]
    assert touching == ["LOAD", "BINARY_OP", "STORE"]


@pytest.mark.parametrize("bad", [0, -2])
def test_numbers_out_of_range(bad):
    with pytest.raises(ValueError, match=f"increments must be at least 1, got {bad}"):
        all_interleavings(bad)
    with pytest.raises(ValueError, match=f"workers must be at least 1, got {bad}"):
        all_interleavings(1, workers=bad)


@pytest.mark.parametrize("bad", [1.0, True, "1"])
def test_no_numbers(bad):
    with pytest.raises(TypeError, match="increments: expected an integer"):
        all_interleavings(bad)
    with pytest.raises(TypeError, match="workers: expected an integer"):
        all_interleavings(1, workers=bad)


def test_steps_of_itertools_agree():
    """The list of orders itself, against itertools on the smallest case."""
    assert set(orders([3, 3])) == set(itertools.permutations([0] * 3 + [1] * 3))
