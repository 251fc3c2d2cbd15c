"""How much of the communication hides behind backward, predicted and measured.

    U_k = u_1 + … + u_k                    when bucket k is computed
    F_k = max(F_{k−1}, U_k) + v_k          when it is reduced, on a link that carries one at a time
        = max over j ≤ k of (U_j + v_j + … + v_k)

All but the last bucket hide, F_K = U_K + v_K, exactly if every sum of reductions v_j + … + v_{K−1}
fits into the computing that is left, u_{j+1} + … + u_K. With K equal buckets that is v ≤ u; then
one bucket's time remains. At v = u the time falls from 2Ku to (K+1)u.

Source: Li et al. 2020 (PyTorch Distributed), §3.2.3, for the idea; the recursion is counted here.
Chapter: course/11_collectives.ipynb.  Dimension key: K buckets.
"""

import copy
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from companion.checks import check_count, check_number, typed
from companion.collectives.backward.during_backward import BucketSpan
from companion.collectives.data_parallel import DataParallel
from companion.collectives.ring import ring_all_reduce
from companion.collectives.study.delayed import delayed

__all__ = ["OverlapMeasurement", "OverlapTime", "measure_overlap", "overlap_time"]


class OverlapTime(NamedTuple):
    """Backward and communication, in seconds."""

    serial_s: float
    overlapped_s: float
    exposed_s: float  # of the overlapped time, after the last gradient is computed


@typed
def overlap_time(compute_s: Sequence[float], reduce_s: Sequence[float]) -> OverlapTime:
    """The time of backward with communication, one after the other and overlapped.

    Args:
        compute_s: What each bucket takes to compute, in the order of backward.
        reduce_s: What each takes on its way over the ranks.

    Raises:
        ValueError: If the two do not have the same length.

    Example:
        >>> overlap_time([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])  # all but the last bucket hides
        OverlapTime(serial_s=9.0, overlapped_s=7.0, exposed_s=1.0)
        >>> overlap_time([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])  # the link is never idle
        OverlapTime(serial_s=9.0, overlapped_s=7.0, exposed_s=4.0)
    """
    for name, seconds in {"compute_s": compute_s, "reduce_s": reduce_s}.items():
        for bucket, one in enumerate(seconds):
            check_number(f"{name}[{bucket}]", one, least=0)
    if len(compute_s) != len(reduce_s):
        raise ValueError(f"expected as many reductions as {len(compute_s)}, got {len(reduce_s)}")
    computed_s = reduced_s = 0.0
    for bucket_compute_s, bucket_reduce_s in zip(compute_s, reduce_s, strict=True):
        computed_s += bucket_compute_s
        reduced_s = max(reduced_s, computed_s) + bucket_reduce_s
    return OverlapTime(computed_s + sum(reduce_s), reduced_s, reduced_s - computed_s)


class OverlapMeasurement(NamedTuple):
    """The fastest backward of each schedule on this rank."""

    serial_s: float
    overlapped_s: float
    serial_spans: list[BucketSpan]
    overlapped_spans: list[BucketSpan]

    @property
    def ratio(self) -> float:
        """Overlapped over serial time."""
        return self.overlapped_s / self.serial_s

    def taken_s(
        self, schedule: Literal["serial", "overlapped"], kind: Literal["compute", "reduce", "wait"]
    ) -> list[float]:
        """What each bucket of a schedule took, in order."""
        spans = self.serial_spans if schedule == "serial" else self.overlapped_spans
        return [span.end_s - span.start_s for span in spans if span.kind == kind]


@typed
def measure_overlap(
    module: nn.Module,
    inputs: Tensor,
    *,
    bucket_bytes: int,
    alpha_s: float = 0.0,
    beta_s_per_byte: float | None = None,
    repeats: int = 3,
    reduce: Callable[..., Any] = ring_all_reduce,
    group: ProcessGroup | None = None,
) -> OverlapMeasurement:
    """Time backward over a slow link: all gradients first and then one message, or in buckets.

    Every rank calls this. The schedules alternate, so that a busy machine slows both.

    Args:
        module: Left as it is.
        inputs: One batch; the loss is the sum of the output.
        bucket_bytes: Of the overlapped schedule; the serial one has a single bucket.
        alpha_s: The link's latency for each message.
        beta_s_per_byte: The link's time per byte; None takes it so that sending all gradients
            lasts as long as computing them, where overlap has most to give.
        repeats: Backward passes of each schedule, after one that is not counted.
        reduce: All-reduce behind the delay.
        group: None is the default group.

    Returns:
        Seconds from the forward's end to the last averaged gradient, and both timelines.
    """
    check_count("repeats", repeats)
    if beta_s_per_byte is None:
        beta_s_per_byte = _balanced_link(module, inputs, reduce=reduce, group=group)
    slow = delayed(reduce, alpha_s=alpha_s, beta_s_per_byte=beta_s_per_byte)
    schedules = [
        DataParallel(
            copy.deepcopy(module),
            bucket_bytes=size,
            first_bucket_bytes=size,
            reduce=slow,
            group=group,
        )
        for size in (sys.maxsize, bucket_bytes)
    ]
    rows: list[list[tuple[float, list[BucketSpan]]]] = [[], []]
    for _ in range(1 + repeats):
        for model, row in zip(schedules, rows, strict=True):
            row.append((_backward_s(model, inputs), model.spans))
    (serial_s, serial), (overlapped_s, overlapped) = (
        min(row[1:], key=lambda timed: timed[0]) for row in rows
    )
    return OverlapMeasurement(serial_s, overlapped_s, serial, overlapped)


def _backward_s(module: nn.Module, inputs: Tensor) -> float:
    for parameter in module.parameters():
        parameter.grad = None
    loss = module(inputs).sum()
    start_s = time.perf_counter()
    loss.backward()
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - start_s


def _balanced_link(
    module: nn.Module,
    inputs: Tensor,
    *,
    reduce: Callable[..., Any],
    group: ProcessGroup | None,
) -> float:
    """Seconds per byte with which sending takes as long as backward, the same on all ranks."""
    alone = copy.deepcopy(module)
    compute_s = torch.tensor(min(_backward_s(alone, inputs) for _ in range(3)))
    reduce(compute_s, op="mean", group=group)
    return compute_s.item() / sum(p.nbytes for p in alone.parameters() if p.requires_grad)
