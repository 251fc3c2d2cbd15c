"""Data parallelism: every rank has the whole model and a part of the batch.

    ∇L(whole batch) = 1/P · Σ_r ∇L(part r),    for a mean over equally large parts

So the ranks average their gradients during backward, and an optimizer that starts from the same
weights and sees the same gradients keeps the same weights, on every rank, to the bit.

Source: Li et al. 2020 (PyTorch Distributed), VLDB 13(12), §3.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from companion.checks import typed
from companion.collectives.backward.buckets import assign_buckets
from companion.collectives.backward.during_backward import BucketSpan, DuringBackward
from companion.collectives.backward.flat_parameters import (
    broadcast_tensors,
    check_same_parameters,
    dense_gradient,
    starts_of,
)
from companion.collectives.ring import ring_all_reduce

__all__ = ["DataParallel"]

# reduce(tensor, *, op, group): in place
AllReduce = Callable[..., Any]


class DataParallel(nn.Module):
    """A module whose gradients are averaged over the ranks when ``backward()`` returns.

    Parameters and buffers are those of the group's rank 0 from the start. Gradients travel in
    buckets while backward goes on; when it returns, ``grad`` holds a copy of the average, the
    same bits on every rank. A parameter that only some ranks used counts as zero on the others;
    one that nobody used keeps ``grad`` None. Takes the memory of one more set of gradients.

    Source: Li et al. 2020, §3.2. Differences from ``DistributedDataParallel``: unused parameters
    need no flag, buffers are not sent again in each forward (``broadcast_buffers`` does that),
    and it is the place of ``backward()``, not that of the forward, which counts for ``no_sync``.

    Args:
        module: The same on all ranks. Read and save its state through ``.module``. Freeze
            parameters before or after, but unfreeze none.
        bucket_bytes: Gradients that travel together, see ``assign_buckets``.
        first_bucket_bytes: The same for the first bucket, small so that it leaves early.
        reduce: ``reduce(tensor, op="mean", group=group)`` all-reduces in place: any of this
            package's all-reduces. Called on a thread, one bucket after the other, so nothing
            else may use the group during backward.
        group: None is the default group.

    Raises:
        ValueError: If the ranks' parameters differ (on every rank), or if there are none.

    Example:
        >>> from torch import distributed
        >>> alone = {"store": distributed.HashStore(), "rank": 0, "world_size": 1}
        >>> distributed.init_process_group("gloo", **alone)
        >>> model = DataParallel(nn.Linear(2, 1, bias=False))
        >>> model(torch.tensor([[3.0, 4.0]])).sum().backward()
        >>> model.module.weight.grad, [span.kind for span in model.spans]
        (tensor([[3., 4.]]), ['compute', 'reduce', 'wait'])
        >>> distributed.destroy_process_group()
    """

    @typed
    def __init__(
        self,
        module: nn.Module,
        *,
        bucket_bytes: int = 25 * 2**20,
        first_bucket_bytes: int = 2**20,
        reduce: AllReduce = ring_all_reduce,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self._group = group
        trained = [p for p in module.parameters() if p.requires_grad]
        check_same_parameters(module.named_parameters(), group=group)
        if not trained:
            raise ValueError("expected a module with parameters to train, got none")
        broadcast_tensors(module.parameters(), group=group)
        self.broadcast_buffers()
        sizes = {"bucket_bytes": bucket_bytes, "first_bucket_bytes": first_bucket_bytes}
        buckets = assign_buckets(trained, **sizes)
        self._buckets = DuringBackward([_AveragedBucket(b, reduce, group) for b in buckets])
        self._known = set(trained)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output."""
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad and parameter not in self._known:
                raise RuntimeError(
                    f"expected {name} to stay frozen, got requires_grad=True after DataParallel "
                    "was made: its gradient would not be averaged"
                )
        output = self.module(*args, **kwargs)
        self._buckets.start_clock()
        return output

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within this context ``backward()`` adds up this rank's own gradients and sends nothing.

        The next ``backward()`` outside averages the sums. All ranks do this alike.
        """
        before, self._buckets.enabled = self._buckets.enabled, False
        try:
            yield
        finally:
            self._buckets.enabled = before

    def broadcast_buffers(self) -> None:
        """Overwrite the buffers, such as running means, with those of the group's rank 0."""
        broadcast_tensors(self.module.buffers(), group=self._group)

    @property
    def spans(self) -> list[BucketSpan]:
        """Timeline of the last averaging backward, in seconds since the forward's end."""
        return self._buckets.spans

    @property
    def bucket_sizes_bytes(self) -> list[int]:
        """Bytes of gradients in each bucket, in the order in which they travel."""
        return [sum(p.nbytes for p in b.parameters) for b in self._buckets.buckets]


class _AveragedBucket:
    """Gradients laid end to end, and behind them one number for each: has this rank got one?

    The averaged number is above zero where any rank has a gradient, at no further message.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], reduce: AllReduce, group: ProcessGroup | None
    ) -> None:
        self.parameters = parameters
        self._reduce = reduce
        self._group = group
        starts = starts_of(parameters)
        self._flat = parameters[0].detach().new_zeros(starts[-1] + len(parameters))
        self._has = self._flat[starts[-1] :]
        self._place: dict[nn.Parameter, tuple[int, Tensor]] = {
            parameter: (i, self._flat[start : start + parameter.numel()].view(parameter.shape))
            for i, (parameter, start) in enumerate(zip(parameters, starts, strict=False))
        }
        self._taken: set[nn.Parameter] = set()

    def take(self, parameter: nn.Parameter) -> None:
        i, place = self._place[parameter]
        place.copy_(dense_gradient(parameter))
        self._has[i] = 1
        self._taken.add(parameter)

    def close(self) -> None:
        """A parameter that this backward did not reach may hold what ``no_sync`` added up."""
        for parameter, (i, place) in self._place.items():
            if parameter not in self._taken and parameter.grad is not None:
                self.take(parameter)
            elif parameter not in self._taken:
                place.zero_()
                self._has[i] = 0
        self._taken.clear()

    @torch.no_grad()
    def reduce(self) -> None:
        self._reduce(self._flat, op="mean", group=self._group)

    @torch.no_grad()
    def finish(self) -> None:
        has = self._has.tolist()
        for parameter, (i, place) in self._place.items():
            if has[i] == 0:
                continue
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(place)
