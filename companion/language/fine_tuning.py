"""One optimizer step on some parameters of a language model, the same on one process as on many.

A global batch is shared out: of P processes, rank p takes examples p, p + P, … of it. Each weighs
its mean loss by its part of the batch's completion tokens, so that the summed gradients are those
of one process with the whole batch; a mean over ranks would weigh short completions more.

Everything random is drawn from a stream named by seed, step and rank. A run that is continued at
step 700 therefore needs to know nothing but that number.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from companion.language.records import (
    Example,
    collate,
    completion_loss,
    held_out_loss,
    predicted_tokens,
)
from companion.training import Stateful
from companion.training.precision import Precision, PrecisionPolicy
from companion.training.process_group import rank_and_ranks
from companion.training.seeds import shuffled, stream

__all__ = ["Adapters", "FineTuning", "Precision"]


class FineTuning:
    """AdamW on some parameters of a language model, without weight decay; one call is one step.

    The learning rate rises linearly over ``warmup`` steps and falls linearly to zero at the end. It
    follows the number of the step, as the examples do: a step that "fp16" skips is gone.

    Args:
        model: On its device; the same on all processes.
        parameters: What is trained, as an optimizer takes it: parameters of the model, or groups
            of them with learning rates of their own.
        examples: All training examples, the same on all processes.
        steps: Of the whole run, which sets the learning rate's fall.
        batch_size: Examples of one step, over all processes together; each epoch is shuffled
            anew, and a batch may hold the end of one epoch and the beginning of the next.
        learning_rate: At its highest, for all that ``parameters`` gives no rate of their own.
        warmup: Steps, fewer than ``steps``.
        precision: A name, or a policy with a scaler of your own. "bf16" and "fp16" compute under
            autocast; parameters, gradients and AdamW stay as they are, in float32.
        pad_token: See ``collate``.
        seed: Of the order of examples and of dropout.

    Raises:
        ValueError: If the batch is larger than the data or smaller than the number of processes.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        examples: Sequence[Example],
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        warmup: int = 0,
        precision: Precision | PrecisionPolicy = "fp32",
        pad_token: int = 0,
        seed: int = 0,
    ) -> None:
        self.rank, self.ranks = rank_and_ranks()
        if not self.ranks <= batch_size <= len(examples):
            raise ValueError(
                f"expected a batch size from {self.ranks} (one example for each process) to "
                f"{len(examples)} (all of them), got {batch_size}"
            )
        self.model = model.train()
        self.examples = examples
        self.batch_size = batch_size
        self.pad_token = pad_token
        self.seed = seed
        groups = list(parameters)
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.0)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        if not isinstance(precision, PrecisionPolicy):
            precision = PrecisionPolicy(precision, self.device)
        self.precision = precision
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda i: min((i + 1) / (warmup + 1), (steps - i) / (steps - warmup)),
        )
        for parameter in self.parameters:  # one start, whatever a machine's arithmetic made of it
            if self.ranks > 1:
                distributed.broadcast(parameter.data, src=0)

    @property
    def state(self) -> dict[str, Stateful]:
        """What changes from step to step: not the frozen base."""
        return {
            "adapters": Adapters(self.model, self.parameters),
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            **self.precision.state,
        }

    def batch(self, step: int) -> list[Example]:
        """The global batch of a step: the same on every process."""
        count = len(self.examples)
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [
            self.examples[shuffled(self.seed, place // count, count)[place % count]]
            for place in places
        ]

    def __call__(self, step: int) -> dict[str, float]:
        """Update the parameters with one global batch.

        Returns:
            ``loss``, the mean over the global batch's completion tokens before the update, in
            nats; ``learning_rate`` of the update; ``tokens``, how many completion tokens.

        Raises:
            FloatingPointError: If the loss is not finite; nothing is updated then.
        """
        batch = self.batch(step)
        tokens = sum(map(predicted_tokens, batch))
        share = batch[self.rank :: self.ranks]
        weight = sum(map(predicted_tokens, share)) / tokens
        draws = self._drawing_from(stream(self.seed, "step", step, self.rank))
        with draws, self.precision.autocast():
            pair = collate(share, pad_token=self.pad_token, device=self.device)
            loss = weight * completion_loss(self.model, *pair)
        self.optimizer.zero_grad()
        self.precision.backward(loss)
        total = self._add_up(loss.detach())
        if not math.isfinite(total):
            raise FloatingPointError(
                f"expected a finite loss at step {step + 1}, got {total}; a lower learning rate "
                "or a longer warm-up may help"
            )
        learning_rate = self.schedule.get_last_lr()[0]
        self.precision.step(self.optimizer)
        self.precision.update()
        self._next_learning_rate()
        return {"loss": total, "learning_rate": learning_rate, "tokens": float(tokens)}

    def held_out_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss over the completion tokens of ``examples``; each process takes its share."""
        share = examples[self.rank :: self.ranks]
        tokens = sum(map(predicted_tokens, share))
        nats = 0.0
        if share:
            size = math.ceil(self.batch_size / self.ranks)
            with self.precision.autocast():
                mean = held_out_loss(self.model, share, batch_size=size, pad_token=self.pad_token)
            nats = mean * tokens
        sums = torch.tensor([nats, tokens], dtype=torch.float64, device=self.device)
        if self.ranks > 1:
            distributed.all_reduce(sums)
        return (sums[0] / sums[1]).item()

    def _add_up(self, loss: Tensor) -> float:
        """Sum gradients and loss over the processes, in one message; the summed loss.

        In "fp16" the gradients are scaled, the loss is not. A gradient that overflowed in one
        process is infinite or NaN in every sum, so that all processes skip the step alike.
        """
        for parameter in self.parameters:
            if parameter.grad is None:  # an expert that no token was sent to
                parameter.grad = torch.zeros_like(parameter)
        if self.ranks == 1:
            return loss.item()
        gradients = [parameter.grad for parameter in self.parameters]
        message = torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(message)
        parts = message[1:].split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return message[0].item()

    def _next_learning_rate(self) -> None:
        with warnings.catch_warnings():  # a scaler may have skipped AdamW's very first step
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.schedule.step()

    @contextmanager
    def _drawing_from(self, seed: int) -> Iterator[None]:
        """Dropout draws from PyTorch's global generators; the caller gets them back untouched."""
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                torch.cuda.default_generators[self.device.index].manual_seed(seed)
            yield


class Adapters:
    """The trained parameters by name, as ``companion.training.fit`` saves and loads them."""

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        trained = {id(parameter) for parameter in parameters}
        self.parameters = {n: p for n, p in model.named_parameters() if id(p) in trained}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if self.parameters.keys() != state_dict.keys():
            raise ValueError(
                f"expected the adapters {sorted(self.parameters)}, got {sorted(state_dict)}"
            )
        for name, parameter in self.parameters.items():
            parameter.copy_(state_dict[name])
