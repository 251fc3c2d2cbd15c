"""The same training run with each repair left out in turn, for several seeds at once.

A network of one hidden layer reads the handwritten digits. All seeds are trained side by side, as
a stack of matrices, on a simulated machine (``machine.FewBits``), so every CPU does the same.

Chapter: course/08_precision.ipynb.
Dimension key: E seeds, B images, D pixels, H hidden units, C classes.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from companion.data import digits
from companion.precision.float_format import BF16, FP16, FloatFormat
from companion.precision.study.machine import FewBits

__all__ = ["VARIANTS", "Arithmetic", "DigitsRun", "lost_updates", "train_digits"]

# The loss and its gradient are computed in float32, as all recipes of mixed precision do.
_LOSS = ("_log_softmax", "_log_softmax_backward_data", "nll_loss_forward", "nll_loss_backward")


@dataclass(frozen=True)
class Arithmetic:
    """How a run computes.

    Fields:
        format: Of activations, gradients and the weights in use; None is float32 throughout.
        master_weights: Update copies in float32; else the weights themselves, in the format.
        loss_scale: Factor of the loss, taken out of the gradients again.
        short_sums: Sum up matrix products in the format, 32 products at a time, instead of in
            float32.
    """

    format: FloatFormat | None = None
    master_weights: bool = True
    loss_scale: float = 1.0
    short_sums: bool = False

    def context(self) -> AbstractContextManager:
        """The machine, for forward and backward."""
        if self.format is None:
            return nullcontext()
        return FewBits(self.format, short_sums=self.short_sums, block=32, exempt=_LOSS)

    def round(self, values: Tensor) -> Tensor:
        """To the format, if there is one; a new tensor."""
        return values.clone() if self.format is None else self.format.round(values)


_REPAIRED = Arithmetic(FP16, loss_scale=2.0**20)
VARIANTS = {
    "FP32": Arithmetic(),
    "FP16, all three repairs": _REPAIRED,
    "FP16, no master weights": replace(_REPAIRED, master_weights=False),
    "FP16, no loss scale": replace(_REPAIRED, loss_scale=1.0),
    "FP16, no FP32 sums": replace(_REPAIRED, short_sums=True),
    "FP16, no repair": Arithmetic(FP16, master_weights=False, short_sums=True),
    "BF16, master weights": Arithmetic(BF16),
    "BF16, no master weights": Arithmetic(BF16, master_weights=False),
}


class DigitsRun(NamedTuple):
    """What a run gave, for each of E seeds.

    Fields:
        loss: Shape (steps, E), mean cross-entropy in nats.
        accuracy: Shape (E,), on the last 297 digits.
        vanished: Shape (steps,), share of all gradients that are exactly zero.
        skipped: Steps with an infinite or NaN gradient, which changed nothing.
    """

    loss: Tensor
    accuracy: Tensor
    vanished: Tensor
    skipped: int


def train_digits(
    arithmetic: Arithmetic,
    *,
    seeds: int = 3,
    steps: int = 400,
    learning_rate: float = 0.03,
    loss_weight: float = 1.0,
    hidden: int = 32,
) -> DigitsRun:
    """Plain gradient descent on 1,500 digits, the whole batch in each step.

    Args:
        arithmetic: Of the run.
        seeds: How many networks, E, side by side.
        steps: Of the run.
        learning_rate: η for a loss of weight 1.
        loss_weight: Factor of the loss; the learning rate is divided by it, so that nothing
            changes in exact arithmetic. A mean over 1 / loss_weight times as many samples has it.
        hidden: H.
    """
    images, labels = digits()
    pixels_BD = arithmetic.round(images.flatten(1).float())
    x_BD, y_B = pixels_BD[:1500], labels[:1500]
    masters = _initial(seeds, hidden)
    weights = [arithmetic.round(master).requires_grad_() for master in masters]
    losses, vanished, skipped = [], [], 0
    for _ in range(steps):
        with arithmetic.context():
            loss_E = _losses(weights, x_BD, y_B)
            total = loss_E.sum() * (loss_weight * arithmetic.loss_scale)
            gradients = torch.autograd.grad(total, weights)
        losses.append(loss_E.detach())
        zeros = torch.cat([(gradient == 0).flatten() for gradient in gradients])
        vanished.append(zeros.float().mean())
        if all(gradient.isfinite().all() for gradient in gradients):
            _step(arithmetic, weights, masters, gradients, learning_rate / loss_weight)
        else:
            skipped += 1
    with torch.no_grad(), arithmetic.context():
        right = _logits(weights, pixels_BD[1500:]).argmax(-1) == labels[1500:]
    return DigitsRun(torch.stack(losses), right.float().mean(-1), torch.stack(vanished), skipped)


def lost_updates(format: FloatFormat, learning_rate: float) -> float:
    """Share of the weights with a gradient that the first step of ``train_digits`` cannot move.

    Args:
        format: Of the weights; the gradients are computed in float32.
        learning_rate: η.
    """
    images, labels = digits()
    weights = [format.round(master).requires_grad_() for master in _initial(1, 32)]
    loss = _losses(weights, images[:1500].flatten(1).float(), labels[:1500]).sum()
    lost = moved = 0
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        after = format.round(weight.detach() - learning_rate * gradient)
        has_gradient = gradient != 0
        lost += ((after == weight) & has_gradient).sum().item()
        moved += has_gradient.sum().item()
    return lost / moved


@torch.no_grad()
def _step(
    arithmetic: Arithmetic,
    weights: list[Tensor],
    masters: list[Tensor],
    gradients: tuple[Tensor, ...],
    rate: float,
) -> None:
    for weight, master, scaled in zip(weights, masters, gradients, strict=True):
        gradient = scaled / arithmetic.loss_scale
        if arithmetic.master_weights:
            master.sub_(rate * gradient)
            weight.copy_(arithmetic.round(master))
        else:
            update = arithmetic.round(rate * arithmetic.round(gradient))
            weight.copy_(arithmetic.round(weight - update))


def _initial(seeds: int, hidden: int) -> list[Tensor]:
    """Weights of E networks as PyTorch initialises linear layers: uniform, ±1/√inputs."""
    shapes = [(64, hidden), (1, hidden), (hidden, 10), (1, 10)]
    bounds = [64**-0.5, 64**-0.5, hidden**-0.5, hidden**-0.5]
    generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    return [
        torch.stack([(2 * torch.rand(shape, generator=g) - 1) * bound for g in generators])
        for shape, bound in zip(shapes, bounds, strict=True)
    ]


def _logits(weights: list[Tensor], x_BD: Tensor) -> Tensor:
    first_EDH, first_bias, second_EHC, second_bias = weights
    x_EBD = x_BD.expand(len(first_EDH), *x_BD.shape)
    hidden_EBH = torch.relu(torch.bmm(x_EBD, first_EDH) + first_bias)
    return torch.bmm(hidden_EBH, second_EHC) + second_bias


def _losses(weights: list[Tensor], x_BD: Tensor, y_B: Tensor) -> Tensor:
    logits_EBC = _logits(weights, x_BD)
    labels_EB = y_B.expand(len(logits_EBC), -1)
    losses = F.cross_entropy(logits_EBC.flatten(0, 1), labels_EB.flatten(), reduction="none")
    return losses.view(labels_EB.shape).mean(1)
