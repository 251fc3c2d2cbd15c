"""ZeRO, stages 1 and 2: each rank keeps the optimizer's state of one part in P of the weights.

    stage 1, in step():       reduce-scatter gradients → update own part → all-gather weights
    stage 2, in backward():   reduce-scatter each bucket and free it;  step(): update, all-gather

Adam's state, twice the weights or six times in mixed precision, is the same on all ranks of plain
data parallelism. Here it exists once. The bytes sent are the same: reduce-scatter and all-gather
are the two halves of the all-reduce.

Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, §5 and §7.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from companion.checks import check_count, typed
from companion.collectives.backward.buckets import assign_buckets
from companion.collectives.backward.during_backward import DuringBackward
from companion.collectives.backward.elementwise import check_elementwise
from companion.collectives.backward.flat_parameters import broadcast_tensors, check_same_parameters
from companion.collectives.backward.sharded_bucket import ShardedBucket
from companion.collectives.backward.zero_state import gathered_state, local_state
from companion.collectives.ring import ring_all_reduce

__all__ = ["ZeroMemory", "ZeroOptimizer"]


class ZeroMemory(NamedTuple):
    """Bytes that live on this rank now."""

    weights: int
    gradients: int
    optimizer: int


class ZeroOptimizer(Optimizer):
    """An optimizer that shares its state out over the ranks, and averages their gradients.

    Each rank runs backward on its own part of the batch, with the bare module; ``step()`` leaves
    the same weights on every rank, those that the plain optimizer computes from the averaged
    gradients. At the start the weights become those of the group's rank 0, and the parameters
    become views of one row per bucket, so convert or move the module before.

    Every rank makes the same calls: ``step`` and ``state_dict`` are collectives. In stage 2
    backward is one too. It leaves ``grad`` None; several backwards add up; ``step()`` uses up what
    they added. Gradients are then out of reach for clipping and for ``torch.amp.GradScaler``.

    After ``DataParallel``, whose gradients are averages already, stage 1 averages equal numbers:
    right, but everything is sent twice.

    Source: Rajbhandari et al. 2020, arXiv:1910.02054, §5. Difference: a part is cut from every
    bucket rather than from all parameters at once, so that it can leave during backward.

    Args:
        optimizer_class: One that treats every element by itself: SGD, Adam, AdamW, RMSprop …
        parameters: Parameters or parameter groups, as for any optimizer.
        stage: 1 shares out the optimizer's state, 2 the gradients too.
        bucket_bytes: Gradients that travel together; all but two buckets' worth is freed early.
        master_dtype: Let each rank update its part in this dtype (fp32 where weights are bf16),
            as mixed-precision training does. None updates the weights in their own dtype.
        group: None is the default group.
        **options: Of the optimizer: ``lr``, ``betas`` …

    Raises:
        ValueError: If the optimizer is not elementwise, the stage is not 1 or 2, or (on every
            rank) the ranks' parameters differ.
        TypeError: In ``step`` or backward: a sparse gradient, a closure.

    Example:
        >>> from torch import distributed
        >>> alone = {"store": distributed.HashStore(), "rank": 0, "world_size": 1}
        >>> distributed.init_process_group("gloo", **alone)
        >>> weight = nn.Parameter(torch.tensor([4.0, 8.0]))
        >>> optimizer = ZeroOptimizer(torch.optim.SGD, [weight], stage=2, lr=0.5)
        >>> (weight**2).sum().backward()
        >>> optimizer.step()  # w − 0.5 · 2w
        >>> weight.tolist(), weight.grad
        ([0.0, 0.0], None)
        >>> distributed.destroy_process_group()
    """

    @typed
    def __init__(
        self,
        optimizer_class: type[Optimizer],
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        *,
        stage: int = 1,
        bucket_bytes: int = 25 * 2**20,
        master_dtype: torch.dtype | None = None,
        group: ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        check_count("stage", stage, most=2)
        check_elementwise(optimizer_class, options)
        self._complete = False
        super().__init__(parameters, optimizer_class([nn.Parameter()], **options).defaults)
        self._complete = True
        self.stage = stage
        self._group = group
        self._parameters = [p for g in self.param_groups for p in g["params"]]
        check_same_parameters(
            ((f"number {i}", p) for i, p in enumerate(self._parameters)), group=group
        )
        broadcast_tensors(self._parameters, group=group)
        self._buckets_of_group = [
            [
                ShardedBucket(bucket, master_dtype=master_dtype, group=group)
                for bucket in assign_buckets(
                    g["params"], bucket_bytes=bucket_bytes, first_bucket_bytes=bucket_bytes
                )
            ]
            for g in self.param_groups
        ]
        self._local = optimizer_class(self._local_groups(), **options)
        self._during = DuringBackward([_Freeing(b) for b in self._buckets]) if stage == 2 else None

    @property
    def _buckets(self) -> list[ShardedBucket]:
        return [bucket for buckets in self._buckets_of_group for bucket in buckets]

    def _local_groups(self) -> list[dict[str, Any]]:
        """This rank's pieces, with the settings of the groups they come from."""
        return [
            {**_settings(group), "params": [p.weights for b in buckets for p in b.pieces]}
            for group, buckets in zip(self.param_groups, self._buckets_of_group, strict=True)
        ]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Average the gradients, update this rank's part, take the other parts.

        Raises:
            PeerLost: If a rank is gone.
            RuntimeError: If a parameter's data was replaced, or if gradients of stage 2 came
                another way than by backward (from ``DataParallel``).
            TypeError: If a gradient is sparse or a closure is given.
        """
        if closure is not None:
            raise TypeError(
                "expected no closure: stage 2 has no gradients to evaluate again; call backward, "
                "then step()"
            )
        for bucket in self._buckets:
            bucket.check_in_place()
        if self.stage == 1:
            self._average_gradients()
        else:
            self._check_freed()
        used = self._used_on_any_rank()
        for bucket in self._buckets:
            bucket.give_gradients(used)
        for own, group in zip(self._local.param_groups, self.param_groups, strict=True):
            own.update(_settings(group))
        self._local.step()
        for bucket in self._buckets:
            bucket.clear_gradients()
            bucket.gather()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients: those of the parameters, and in stage 2 this rank's part."""
        super().zero_grad(set_to_none)
        for bucket in self._buckets:
            bucket.clear_gradients()

    def state_dict(self) -> dict[str, Any]:
        """The state of all ranks, on every rank, as the plain optimizer would hold it.

        So it can be loaded by the plain optimizer, or on another number of ranks. A collective:
        every rank calls it, also if only one of them writes a file. With ``master_dtype`` the
        parameter's wider copy is called "master".
        """
        return gathered_state(
            self._local, self._buckets, self.param_groups, self._parameters, group=self._group
        )

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state of ``state_dict`` or of the plain optimizer.

        Each rank takes its part of it. Load the weights first: without a "master" in the state,
        wider copies start from them.

        Raises:
            ValueError: If the groups or their sizes differ.
        """
        groups = state_dict["param_groups"]
        expected = [len(group["params"]) for group in self.param_groups]
        got = [len(group["params"]) for group in groups]
        if expected != got:
            raise ValueError(f"expected groups of {expected} parameters, got {got}")
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update(_settings(saved))
        order = [number for group in groups for number in group["params"]]
        saved_of = {
            p: state_dict["state"].get(n) for p, n in zip(self._parameters, order, strict=True)
        }
        for bucket in self._buckets:
            bucket.clear_gradients()
            bucket.copy_master()
        pieces = [piece for bucket in self._buckets for piece in bucket.pieces]
        self._local.load_state_dict(local_state(self._local, pieces, saved_of))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once the parts are cut.

        Raises:
            RuntimeError: Always, after construction.
        """
        if self._complete:
            raise RuntimeError(
                "expected all parameter groups when ZeroOptimizer is made, got one more"
            )
        super().add_param_group(param_group)

    def memory(self) -> ZeroMemory:
        """Bytes of weights, gradients and optimizer state that this rank holds now."""
        full = sum(p.grad.nbytes for p in self._parameters if p.grad is not None)
        states = (value for state in self._local.state.values() for value in state.values())
        return ZeroMemory(
            weights=sum(bucket.weight_bytes for bucket in self._buckets),
            gradients=full + sum(bucket.gradient_part_bytes for bucket in self._buckets),
            optimizer=sum(value.nbytes for value in states if isinstance(value, Tensor))
            + sum(bucket.master_bytes for bucket in self._buckets),
        )

    def _average_gradients(self) -> None:
        for bucket in self._buckets:
            bucket.clear_gradients()
            for parameter in bucket.parameters:
                if parameter.grad is not None:
                    bucket.take(parameter)
            bucket.close()
            bucket.reduce()

    def _check_freed(self) -> None:
        for parameter in self._parameters:
            if parameter.grad is not None:
                raise RuntimeError(
                    "expected no gradient outside ZeroOptimizer in stage 2, got one for the "
                    f"parameter of shape {tuple(parameter.shape)}: use the bare module instead of "
                    "DataParallel, and let backward() make the gradients"
                )

    def _used_on_any_rank(self) -> set[nn.Parameter]:
        """Parameters that have a gradient on some rank; the others are skipped everywhere."""
        taken = {parameter for bucket in self._buckets for parameter in bucket.taken}
        flags = torch.tensor([p in taken for p in self._parameters], dtype=torch.uint8)
        flags = flags.to(self._parameters[0].device)
        ring_all_reduce(flags, op="max", group=self._group)
        return {p for p, flag in zip(self._parameters, flags.tolist(), strict=True) if flag}


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group without its parameters."""
    return {name: v for name, v in group.items() if name not in ("params", "param_names")}


class _Freeing:
    """A bucket that frees each full gradient as soon as it has a copy in its row."""

    def __init__(self, bucket: ShardedBucket) -> None:
        self.parameters = bucket.parameters
        self.close, self.reduce, self.finish = bucket.close, bucket.reduce, bucket.finish
        self._bucket = bucket

    def take(self, parameter: nn.Parameter) -> None:
        self._bucket.take(parameter)
        parameter.grad = None
