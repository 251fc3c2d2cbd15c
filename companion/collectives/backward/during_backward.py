"""Buckets that leave while backward still computes.

    backward:   | layer 4 | layer 3 | layer 2 | layer 1 | wait …… |
    thread:               | bucket 0 | bucket 1 | bucket 2 | bucket 3 |

A hook on every parameter fires when its gradient is complete. It puts the gradient into its
bucket; full buckets are reduced by one thread, in the order of the buckets and never in that of
their readiness, which may differ from rank to rank. The end of backward waits for the thread.

Source: Li et al. 2020 (PyTorch Distributed), §3.2.3.
Chapter: course/11_collectives.ipynb.
"""

import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Literal, NamedTuple, Protocol

import torch
from torch import nn

__all__ = ["BucketSpan", "DuringBackward", "GradientBucket"]


class BucketSpan(NamedTuple):
    """When something was done for one bucket, in seconds since the clock was started.

    ``compute``: the part of backward that completed this bucket. ``reduce``: its way over the
    ranks. ``wait``: the end of backward, when nothing is left to compute.
    """

    kind: Literal["compute", "reduce", "wait"]
    bucket: int
    start_s: float
    end_s: float


class GradientBucket(Protocol):
    """What a bucket does when; all but ``reduce`` is called by the thread that runs backward."""

    parameters: Sequence[nn.Parameter]

    def take(self, parameter: nn.Parameter) -> None:
        """Its gradient is complete."""

    def close(self) -> None:
        """No more gradients will come: what was not taken has none."""

    def reduce(self) -> None:
        """Talk to the other ranks, on the buckets' own thread."""

    def finish(self) -> None:
        """Backward has ended, and all buckets are reduced."""


class DuringBackward:
    """Reduces buckets beside backward, in their order, and ends no backward before they are.

    Args:
        buckets: Their order is that of their messages, and must be the same on all ranks.

    Attributes:
        enabled: Whether gradients are taken; where it is False, backward is left alone.
        spans: The last backward's timeline.
    """

    def __init__(self, buckets: Sequence[GradientBucket]) -> None:
        self.buckets = list(buckets)
        self.enabled = True
        self.spans: list[BucketSpan] = []
        self._number_of = {p: k for k, b in enumerate(self.buckets) for p in b.parameters}
        self._backward: int | None = None
        self._clock_s = time.perf_counter()
        # One thread: two would send their buckets in an order of their own.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="companion-buckets")
        hook = _hook(weakref.ref(self))  # weak, or the parameters would keep us alive
        handles = [
            parameter.register_post_accumulate_grad_hook(hook)
            for parameter in self._number_of
            if parameter.requires_grad
        ]
        weakref.finalize(self, _remove, handles)

    def start_clock(self) -> None:
        """Let the next backward's times count from now."""
        self._clock_s = time.perf_counter()

    def on_gradient(self, parameter: nn.Parameter) -> None:
        """A parameter's gradient is complete."""
        if not self.enabled:
            return
        if self._backward is None:
            self._begin()
        elif self._backward != torch._C._current_graph_task_id():
            raise RuntimeError(
                "expected the earlier backward to have ended, but it stopped half-way, or this "
                "one runs inside it (a reentrant checkpoint): the ranks are out of step"
            )
        number = self._number_of[parameter]
        self.buckets[number].take(parameter)
        self._missing[number].discard(parameter)
        while len(self._sent) < len(self.buckets) and not self._missing[len(self._sent)]:
            self._send_next()

    def _begin(self) -> None:
        self._backward = torch._C._current_graph_task_id()
        self._missing = [{p for p in b.parameters if p.requires_grad} for b in self.buckets]
        self._sent: list[Future[BucketSpan]] = []
        self._computed: list[BucketSpan] = []
        self._failed = False
        # Autograd calls this in the thread that called backward, after the last gradient; what it
        # raises comes out of backward.
        torch.autograd.Variable._execution_engine.queue_callback(self._end)

    def _send_next(self) -> None:
        number, now_s = len(self._sent), self._now_s()
        begin_s = self._computed[-1].end_s if self._computed else 0.0
        self._computed.append(BucketSpan("compute", number, begin_s, now_s))
        self.buckets[number].close()
        cuda = next((p.device for p in self.buckets[number].parameters if p.is_cuda), None)
        packed = torch.cuda.current_stream(cuda).record_event() if cuda else None
        self._sent.append(self._thread.submit(self._reduce, number, packed))

    def _reduce(self, number: int, packed: torch.cuda.Event | None) -> BucketSpan:
        start_s = self._now_s()
        if self._failed:  # each further bucket would wait for the lost peer once more
            return BucketSpan("reduce", number, start_s, start_s)
        try:
            if packed is None:
                self.buckets[number].reduce()
            else:
                _on_side_stream(self.buckets[number].reduce, packed)
        except BaseException:
            self._failed = True
            raise
        return BucketSpan("reduce", number, start_s, self._now_s())

    def _end(self) -> None:
        try:
            while len(self._sent) < len(self.buckets):
                self._send_next()
            wait_s = self._now_s()
            wait(self._sent)
            reduced = [future.result() for future in self._sent]
            last = BucketSpan("wait", len(self.buckets) - 1, wait_s, self._now_s())
            self.spans = [*self._computed, *reduced, last]
            for bucket in self.buckets:
                bucket.finish()
        finally:
            self._backward = None

    def _now_s(self) -> float:
        return time.perf_counter() - self._clock_s


def _hook(owner: "weakref.ref[DuringBackward]") -> Callable[[nn.Parameter], None]:
    def hook(parameter: nn.Parameter) -> None:
        if (during := owner()) is not None:
            during.on_gradient(parameter)

    return hook


def _remove(handles: Sequence[torch.utils.hooks.RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _on_side_stream(call: Callable[[], None], after: torch.cuda.Event) -> None:
    """Run the call's kernels beside those of backward, after ``after``, and wait for their end."""
    side = torch.cuda.Stream(after.device)
    with torch.cuda.stream(side):
        side.wait_event(after)
        call()
    side.synchronize()
