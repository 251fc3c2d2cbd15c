"""A collective on a model network, message by message, without a process.

A message starts when its sender and its receiver are both ready, and ends α + n·β later; the
receiver then spends n·γ on adding. With t the ranks' clocks, one step is

    end = max(t[src], t[dst]) + α + n·β        t[src] ≥ end,    t[dst] ≥ end + n·γ

which is linear in the algebra of maximum and plus. From this follows the one shortcut: where a step
has moved all clocks by the same amount, each repetition moves them by that amount again.

Source: Baccelli, Cohen, Olsder & Quadrat 1992, "Synchronization and Linearity", ch. 1.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from companion.checks import check_count, check_number, typed
from companion.collectives.cost.arguments import check_bytes, check_seconds
from companion.collectives.cost.coefficients import Algorithm
from companion.collectives.cost.schedules import Step, schedule
from companion.collectives.cost.topology import Topology

__all__ = ["Event", "Trace", "simulate"]

MAX_EVENTS = 10_000


class Event(NamedTuple):
    """One message.

    Fields:
        step: Number of its step, from 0.
        src, dst: Sender and receiver.
        bytes: Size.
        start_s, end_s: When it moved.
        done_s: When the receiver had added it; ``end_s`` where it only stores.
    """

    step: int
    src: int
    dst: int
    bytes: float
    start_s: float
    end_s: float
    done_s: float


@dataclass(frozen=True)
class Trace:
    """What came out of a simulation.

    Fields:
        total_s: When the last rank had finished.
        finish_s: When each rank had finished.
        sent_bytes, received_bytes: Of each rank.
        steps: Steps of the schedule.
        jumped_steps: Those of them that were not computed one by one, because the clocks had
            settled into a common pace.
        events: Every message in order of steps; empty where they are too many to keep.
    """

    total_s: float
    finish_s: np.ndarray = field(repr=False)
    sent_bytes: np.ndarray = field(repr=False)
    received_bytes: np.ndarray = field(repr=False)
    steps: int
    jumped_steps: int
    events: tuple[Event, ...] = field(repr=False)


@typed
def simulate(
    algorithm: Algorithm,
    *,
    ranks: int,
    bytes: float,
    topology: Topology,
    gamma_s_per_byte: float = 0.0,
    delays_s: Mapping[int, float] | None = None,
    slowdowns: Mapping[int, float] | None = None,
    keep_events: bool | None = None,
) -> Trace:
    """Run one call on a model network.

    On a flat network without stragglers the total is ``collective_cost``'s.

    Args:
        algorithm: One of ``companion.collectives.cost.coefficients.ALGORITHMS``; "hierarchical"
            takes its hosts from the topology.
        ranks: P. 65,536 ranks take about a second, with stragglers up to a minute.
        bytes: S, the size of the whole tensor on one rank.
        topology: Hosts and links.
        gamma_s_per_byte: Seconds for each byte that is added to another.
        delays_s: Rank → how much later than the others it makes the call.
        slowdowns: Rank → factor on the time of its messages and additions, at least 1.
        keep_events: Whether to keep every message (then no step is jumped); None keeps up to
            10,000.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its range, or names a rank that does not exist.

    Example:
        >>> from companion.collectives.cost.topology import Link
        >>> flat = Topology(between=Link(10e-6, 1e-9))
        >>> run = simulate("ring", ranks=4, bytes=1e6, topology=flat)
        >>> round(1e3 * run.total_s, 3), run.sent_bytes.tolist()[0], len(run.events)
        (1.56, 1500000.0, 24)
        >>> late = simulate("ring", ranks=4, bytes=1e6, topology=flat, delays_s={2: 0.01})
        >>> round(1e3 * late.total_s, 3)  # all wait for the one that comes 10 ms later
        11.56
    """
    check_bytes(bytes)
    check_seconds(gamma_s_per_byte=gamma_s_per_byte)
    check_count("ranks", ranks)
    per_host = topology.ranks_per_host
    plan = list(schedule(algorithm, ranks=ranks, bytes=bytes, ranks_per_host=per_host))
    messages = sum(len(step.src) * step.repeat for step in plan)
    keep = messages <= MAX_EVENTS if keep_events is None else keep_events
    clocks = _Clocks(
        _per_rank(delays_s, ranks, default=0.0, least=0.0, name="delays_s"),
        _per_rank(slowdowns, ranks, default=1.0, least=1.0, name="slowdowns"),
        gamma_s_per_byte,
        keep,
    )
    sent, received = np.zeros(ranks), np.zeros(ranks)
    for step in plan:
        sent[step.src] += step.bytes * step.repeat
        received[step.dst] += step.bytes * step.repeat
        clocks.run(step, topology.durations_s(step.src, step.dst, step.bytes))
    finish = clocks.now_s()
    return Trace(
        finish.max().item(),
        finish,
        sent,
        received,
        clocks.steps,
        clocks.jumped,
        tuple(clocks.events),
    )


class _Clocks:
    """The time at each rank, as a base common to all plus a rank's own part.

    Source: none; the base keeps the difference of two clocks exact when both are large.
    """

    def __init__(self, start: np.ndarray, slowdown: np.ndarray, gamma: float, keep: bool) -> None:
        self.base, self.own = 0.0, start
        self.slowdown, self.gamma, self.keep = slowdown, gamma, keep
        self.uniform = bool((slowdown == 1).all())
        self.steps = self.jumped = 0
        self.events: list[Event] = []

    def now_s(self) -> np.ndarray:
        return self.base + self.own

    def run(self, step: Step, durations: np.ndarray) -> None:
        """All repetitions of a step."""
        adding = step.bytes * self.gamma * step.adds
        if not self.uniform:
            durations = durations * np.maximum(self.slowdown[step.src], self.slowdown[step.dst])
            adding = adding * self.slowdown[step.dst]
        for done in range(step.repeat):
            if step.repeat > 1 and not self.keep:
                before = self._rebase()
                self._advance(step, durations, adding)
                pace = self.own - before
                if np.ptp(pace) <= 1e-12 * pace.max():
                    left = step.repeat - done - 1
                    self.base += left * pace.max().item()
                    self.jumped += left
                    break
            else:
                self._advance(step, durations, adding)
        self.steps += step.repeat - (done + 1)

    def _rebase(self) -> np.ndarray:
        least = self.own.min()
        self.base += least.item()
        self.own = self.own - least
        return self.own.copy()

    def _advance(self, step: Step, durations: np.ndarray, adding: float | np.ndarray) -> None:
        start = np.maximum(self.own[step.src], self.own[step.dst])
        end = start + durations
        done = end + adding
        # All reads came before these writes: a rank may be sender and receiver in one step.
        self.own[step.src] = np.maximum(self.own[step.src], end)
        self.own[step.dst] = np.maximum(self.own[step.dst], done)
        if self.keep:
            columns = (step.src, step.dst, *(self.base + t for t in (start, end, done)))
            rows = zip(*(column.tolist() for column in columns), strict=True)
            self.events += [Event(self.steps, s, d, step.bytes, *ts) for s, d, *ts in rows]
        self.steps += 1


def _per_rank(
    values: Mapping[int, float] | None, ranks: int, *, default: float, least: float, name: str
) -> np.ndarray:
    every = np.full(ranks, default)
    for rank, value in (values or {}).items():
        if not 0 <= rank < ranks:
            raise ValueError(f"{name} must name ranks in [0, {ranks - 1}], got {rank}")
        check_number(f"{name}[{rank}]", value, least=least)
        every[rank] = value
    return every
