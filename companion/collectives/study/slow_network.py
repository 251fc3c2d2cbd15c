"""Every algorithm's time on a few real ranks, on the machine itself or on a network of known α, β.

The slow network is the machine's own with each message held back until its time has come. The
ranks sleep meanwhile, so that they do not compete for processors and the model's assumptions hold.
Or they work for just as long, as if each message kept a processor busy: then they compete.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from companion.collectives.cost.topology import Link
from companion.collectives.halving_doubling import halve_and_double_
from companion.collectives.parameter_server import collect_and_answer_
from companion.collectives.ring_pipeline import pipelined_ring_
from companion.collectives.tree import tree_
from companion.collectives.wire.peers import Peers
from companion.collectives.wire.reduction import Op

__all__ = ["ALGORITHMS", "SlowPeers", "crossing", "naive_ring_", "time_algorithms"]


def naive_ring_(flat: Tensor, op: Op, peers: Peers) -> None:
    """P−1 times pass a whole tensor to the right, and add the one that comes from the left."""
    right, left = (peers.rank + 1) % peers.size, (peers.rank - 1) % peers.size
    passing, received = flat.clone(), torch.empty_like(flat)
    for _ in range(peers.size - 1):
        peers.exchange(passing, right, received, left).wait()
        op.combine_(flat, received)
        passing, received = received, passing
    op.finish_(flat, ranks=peers.size)


ALGORITHMS: dict[str, Callable[[Tensor, Op, Peers], None]] = {
    "parameter_server": collect_and_answer_,
    "naive_ring": naive_ring_,
    "ring": partial(pipelined_ring_, chunk_bytes=2**62),  # chunks in one piece, as the formula
    "tree": tree_,
    "halving_doubling": halve_and_double_,
}


class SlowPeers(Peers):
    """Peers over a network on which n bytes hold both ends of a message for α + n·β seconds.

    A rank sends one message at a time and receives one at a time, and does both at once. The
    receiver takes messages in the order in which it asks for them.

    Args:
        link: α and β.
        group: As for ``Peers``.
        busy: A rank that waits for a message's time works for it, in seconds of a processor,
            instead of sleeping. The same where every rank has a processor of its own.
    """

    def __init__(
        self, link: Link, group: ProcessGroup | None = None, *, busy: bool = False
    ) -> None:
        super().__init__(group)
        self._link = link
        self._pass_until = _work_until if busy else _sleep_until
        self._free_s = {"send": 0.0, "receive": 0.0}  # when this rank's two ports are free again

    def send(self, sent: Tensor, to: int) -> "_Held":
        begin_s = max(time.monotonic(), self._free_s["send"])
        end_s = self._occupy("send", begin_s, sent.nbytes)
        stamp = torch.tensor([begin_s], dtype=torch.float64)  # all processes have one clock
        message = torch.cat([stamp.view(torch.uint8), sent.view(torch.uint8)])
        transfer = super().send(message, to)

        def wait() -> None:
            transfer.wait()
            self._pass_until(end_s)

        return _Held(wait)

    def receive(self, received: Tensor, source: int) -> "_Held":
        message = torch.empty(8 + received.nbytes, dtype=torch.uint8)
        transfer = super().receive(message, source)

        def wait() -> None:
            transfer.wait()
            sent_s = message[:8].view(torch.float64).item()
            begin_s = max(sent_s, self._free_s["receive"])
            self._pass_until(self._occupy("receive", begin_s, received.nbytes))
            received.view(torch.uint8).copy_(message[8:])

        return _Held(wait)

    def exchange(self, sent: Tensor, to: int, received: Tensor, source: int) -> "_Held":
        transfers = self.send(sent, to), self.receive(received, source)

        def wait() -> None:
            for transfer in reversed(transfers):
                transfer.wait()

        return _Held(wait)

    def _occupy(self, port: str, begin_s: float, size_bytes: int) -> float:
        self._free_s[port] = begin_s + self._link.alpha_s + size_bytes * self._link.beta_s_per_byte
        return self._free_s[port]


class _Held:
    """A transfer that ends when its time has come."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait


def time_algorithms(
    ranks: int,
    sizes_bytes: Sequence[int],
    repeats: int,
    link: Link | None = None,
    *,
    names: Sequence[str] = tuple(ALGORITHMS),
    busy: bool = False,
) -> dict[str, list[float]]:
    """Seconds that each algorithm takes at each size, without the package's headers.

    All ranks of the default group call this; the first ``ranks`` of them measure, the others get
    nothing. The time of a round is that of the rank that ends last; the least of the rounds counts.

    Args:
        ranks: P.
        sizes_bytes: Which S; multiples of 4.
        repeats: Rounds.
        link: Of the slow network; None is the machine as it is.
        names: Which of ``ALGORITHMS``.
        busy: As for ``SlowPeers``.

    Raises:
        ValueError: A sum is wrong.
    """
    group = distributed.new_group(range(ranks))
    if distributed.get_rank() >= ranks:
        return {}
    peers = Peers(group) if link is None else SlowPeers(link, group, busy=busy)
    times = {
        name: [
            min(_round_s(ALGORITHMS[name], torch.ones(s // 4), peers) for _ in range(repeats))
            for s in sizes_bytes
        ]
        for name in names
    }
    distributed.destroy_process_group(group)
    return times


def crossing(sizes: Sequence[float], first: Sequence[float], second: Sequence[float]) -> float:
    """The size from which ``first`` takes longer than ``second``, read off between the sizes.

    Between two sizes the difference of the times is taken to be straight. NaN where the sign does
    not change once from − to +.

    Example:
        >>> crossing([10, 20, 30], [1.0, 2.0, 3.0], [2.0, 2.5, 2.5])
        25.0
    """
    gaps = [one - other for one, other in zip(first, second, strict=True)]
    after = [k for k in range(1, len(gaps)) if gaps[k - 1] <= 0 < gaps[k]]
    if len(after) != 1 or gaps[0] > 0:
        return float("nan")
    (k,) = after
    share = -gaps[k - 1] / (gaps[k] - gaps[k - 1])
    return sizes[k - 1] + share * (sizes[k] - sizes[k - 1])


def _round_s(algorithm: Callable[[Tensor, Op, Peers], None], tensor: Tensor, peers: Peers) -> float:
    distributed.barrier(group=peers.group)
    start_s = time.monotonic()
    algorithm(tensor, Op("sum"), peers)
    taken_s = torch.tensor(time.monotonic() - start_s)
    if not (tensor == peers.size).all():
        raise ValueError(f"expected sums of {peers.size}, got {tensor.unique().tolist()[:3]}")
    distributed.all_reduce(taken_s, op=distributed.ReduceOp.MAX, group=peers.group)
    return taken_s.item()


def _sleep_until(end_s: float) -> None:
    time.sleep(max(0.0, end_s - time.monotonic()))


def _work_until(end_s: float) -> None:
    """Use a processor for as long as it is until then; later, if others use it meanwhile."""
    stop_s = time.thread_time() + end_s - time.monotonic()
    while time.thread_time() < stop_s:
        pass
