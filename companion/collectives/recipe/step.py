"""One training step that all ranks take together, and the state that one of them saves.

    stage 0:     DataParallel averages the gradients, every rank updates all weights
    stage 1, 2:  ZeroOptimizer averages the gradients, every rank updates its part

Chapter: course/11_collectives.ipynb.  Dimension key: B batch, P ranks.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from companion.collectives.data_parallel import DataParallel
from companion.collectives.recipe.tasks import Task
from companion.collectives.ring import ring_all_reduce
from companion.collectives.zero import ZeroMemory, ZeroOptimizer

__all__ = ["OPTIMIZERS", "GatheredState", "TrainingStep"]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


class TrainingStep:
    """``step(rows)``: loss and gradient of this rank's rows, their average, one update.

    Every rank brings the same rows and takes every P-th of them. The result is that of one
    process with all rows, but for rounding.

    Args:
        task: Data and loss.
        model: The same on all ranks, where the data is; rank 0's weights count.
        optimizer: One of ``OPTIMIZERS``.
        learning_rate: Of every step.
        zero: 0 for ``DataParallel``, 1 or 2 for a stage of ``ZeroOptimizer``.
        bucket_bytes: Gradients that travel together.
        reduce: All-reduce of stage 0.

    Attributes:
        optimizer: The plain one, or the ``ZeroOptimizer``.
        memory: Bytes on this rank, as of the last step's end of backward.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        *,
        optimizer: str,
        learning_rate: float,
        zero: int = 0,
        bucket_bytes: int = 25 * 2**20,
        reduce: Callable[..., Any] = ring_all_reduce,
    ) -> None:
        self.task = task
        self.memory: ZeroMemory | None = None
        self._parameters = list(model.parameters())
        if zero:
            self._model, sizes = model, {"stage": zero, "bucket_bytes": bucket_bytes}
            self.optimizer: Optimizer = ZeroOptimizer(
                OPTIMIZERS[optimizer], self._parameters, lr=learning_rate, **sizes
            )
        else:
            first = min(bucket_bytes, 2**20)
            sizes = {"bucket_bytes": bucket_bytes, "first_bucket_bytes": first}
            self._model = DataParallel(model, reduce=reduce, **sizes)
            self.optimizer = OPTIMIZERS[optimizer](self._parameters, lr=learning_rate)

    def __call__(self, rows_B: Tensor) -> Tensor:
        """The whole batch's loss, the same on every rank.

        Raises:
            FloatingPointError: On every rank, if the loss is not finite; the weights stay.
            PeerLost: If a rank is gone.
        """
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
        self.optimizer.zero_grad()
        # Over B/P rows, not over the rows of this part, which may be one more or one less.
        loss = self.task.loss_sum(self._model, rows_B[rank::ranks]) * (ranks / len(rows_B))
        loss.backward()
        whole = ring_all_reduce(loss.detach().clone(), op="mean")
        if not math.isfinite(whole.item()):
            raise FloatingPointError(f"expected a finite loss, got {whole.item()}")
        self.memory = self._memory()
        self.optimizer.step()
        return whole

    def _memory(self) -> ZeroMemory:
        if isinstance(self.optimizer, ZeroOptimizer):
            return self.optimizer.memory()
        values = (v for state in self.optimizer.state.values() for v in state.values())
        return ZeroMemory(
            weights=sum(p.nbytes for p in self._parameters),
            gradients=sum(p.grad.nbytes for p in self._parameters if p.grad is not None),
            optimizer=sum(v.nbytes for v in values if isinstance(v, Tensor)),
        )


class GatheredState:
    """An optimizer whose state one rank may save, after all ranks have gathered it.

    ``fit`` asks only the rank that writes, but a ``ZeroOptimizer`` needs all of them to answer.

    Args:
        optimizer: Any.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._gathered: dict[str, Any] | None = None

    def gather(self) -> None:
        """Every rank calls this before a save; only rank 0 keeps the answer, until it is saved."""
        state = self._optimizer.state_dict()
        if distributed.get_rank() == 0:
            self._gathered = state

    def state_dict(self) -> dict[str, Any]:
        """What was gathered; else, on all ranks together, the state as it is now."""
        state, self._gathered = self._gathered, None
        return self._optimizer.state_dict() if state is None else state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved state, on every rank."""
        self._optimizer.load_state_dict(dict(state_dict))
