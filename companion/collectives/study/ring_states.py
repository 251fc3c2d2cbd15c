"""The ring all-reduce step by step: which rank holds the sum of which ranks.

Source: Patarasuk & Yuan 2009, §3.1 and §3.2; Gibiansky 2017.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, and as many chunks.
"""

from typing import Literal, NamedTuple

from companion.checks import check_count, typed

__all__ = ["Move", "RingState", "holds_invariant", "ring_steps"]


class Move(NamedTuple):
    """Chunk ``chunk`` goes from rank ``src`` to rank ``dst``."""

    src: int
    dst: int
    chunk: int


class RingState(NamedTuple):
    """What every rank holds after a step.

    Fields:
        step: Steps done, 0 … 2(P−1).
        phase: What this step was part of; "start" before the first.
        held: held[rank][chunk] is the set of ranks whose numbers are summed there.
        moves: What this step sent, one chunk from each rank.
    """

    step: int
    phase: Literal["start", "reduce-scatter", "all-gather"]
    held: tuple[tuple[frozenset[int], ...], ...]
    moves: tuple[Move, ...] = ()


def ring_steps(ranks: int) -> list[RingState]:
    """All states of a ring all-reduce, from the start to the end.

    In step t = 1 … P−1 of the reduce-scatter, rank r sends chunk r−t to its right and adds the
    chunk r−t−1 that comes from its left; in step t of the all-gather it sends chunk r−t+1 and
    stores chunk r−t. All indices are modulo P.

    Source: Patarasuk & Yuan 2009, §3. Difference: theirs ends with chunk r+1 on rank r, ours with
    chunk r, as reduce-scatter is defined.

    Args:
        ranks: P.

    Returns:
        2(P−1) + 1 states.

    Raises:
        TypeError, ValueError: P is not an integer of at least 1.

    Example:
        >>> start, scattered, gathered = ring_steps(2)
        >>> scattered.moves
        (Move(src=0, dst=1, chunk=1), Move(src=1, dst=0, chunk=0))
        >>> [[sorted(sum) for sum in row] for row in scattered.held]
        [[[0, 1], [0]], [[1], [0, 1]]]
    """
    check_count("ranks", ranks)
    held = [[frozenset({rank})] * ranks for rank in range(ranks)]
    states = [RingState(0, "start", _frozen(held))]
    for phase in ("reduce-scatter", "all-gather"):
        for t in range(1, ranks):
            first = -t if phase == "reduce-scatter" else 1 - t
            moves = tuple(Move(r, (r + 1) % ranks, (r + first) % ranks) for r in range(ranks))
            arriving = [held[move.src][move.chunk] for move in moves]
            for (_, dst, chunk), sum_ in zip(moves, arriving, strict=True):
                held[dst][chunk] = held[dst][chunk] | sum_ if phase == "reduce-scatter" else sum_
            states.append(RingState(len(states), phase, _frozen(held), moves))
    return states


@typed
def holds_invariant(state: RingState) -> bool:
    """Whether the state is what the proof of the ring says it must be.

    After t ≤ P−1 steps, chunk r−t−1 on rank r is the sum over the t+1 ranks r−t … r, which with
    t = P−1 are all. After t further steps, chunks r, r−1 … r−t on rank r are finished.

    Example:
        >>> all(holds_invariant(state) for state in ring_steps(5))
        True
    """
    ranks = len(state.held)
    scattering = state.step < ranks
    t = state.step if scattering else state.step - (ranks - 1)
    if scattering:
        return all(
            state.held[r][(r - t - 1) % ranks] == {(r - back) % ranks for back in range(t + 1)}
            for r in range(ranks)
        )
    finished = set(range(ranks))
    return all(
        state.held[r][(r - back) % ranks] == finished for r in range(ranks) for back in range(t + 1)
    )


def _frozen(held: list[list[frozenset[int]]]) -> tuple[tuple[frozenset[int], ...], ...]:
    return tuple(tuple(row) for row in held)
