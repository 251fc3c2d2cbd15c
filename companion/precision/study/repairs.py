"""The same training run with each repair left out in turn, for several seeds at once.

A network of one hidden layer reads the handwritten digits. Forward and backward are written out,
and each result is rounded, so that every CPU does the same and it is plain what is rounded:

    h = R(relu(R(x W₁ + b₁)))        z = R(h W₂ + b₂)        loss: mean cross-entropy, in float32
    δ_z = R(s/N · (softmax(z) − y))   δ_h = R(δ_z W₂ᵀ) where h > 0
    gradients: R(Σ h δ_z), R(Σ δ_z), R(Σ x δ_h), R(Σ δ_h)    s loss scale, N samples

A sample's share of the gradient has the factor 1/N; a weight's gradient is the sum over all
samples. So each digit can stand for many equal ones: 1/N falls, and the sums stay.

All seeds are trained side by side, as a stack of matrices.

Chapter: course/08_precision.ipynb.
Dimension key: E seeds, B images, D pixels, H hidden units, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from companion.data import digits
from companion.precision.float_format import BF16, FP16, FloatFormat
from companion.precision.study.matmul import matmul_with_short_sums

__all__ = ["VARIANTS", "Arithmetic", "DigitsRun", "lost_updates", "train_digits"]


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

    def round(self, values: Tensor) -> Tensor:
        """To the format, if there is one; a new tensor."""
        return values.clone() if self.format is None else self.format.round(values)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """A matrix product, before its result is rounded."""
        return matmul_with_short_sums(a, b, self.format, block=32) if self.short_sums else a @ b


_REPAIRED = Arithmetic(FP16, loss_scale=2.0**14)
_NO_SCALE = Arithmetic(FP16)
VARIANTS = {
    "FP32": Arithmetic(),
    "FP16, all three repairs": _REPAIRED,
    "FP16, no master weights": replace(_REPAIRED, master_weights=False),
    "FP16, no loss scale": _NO_SCALE,
    "FP16, no FP32 sums": replace(_REPAIRED, short_sums=True),
    "FP16, no repair": replace(_NO_SCALE, master_weights=False, short_sums=True),
    "BF16, master weights": Arithmetic(BF16),
    "BF16, no master weights": Arithmetic(BF16, master_weights=False),
}


class DigitsRun(NamedTuple):
    """What a run gave, for each of E seeds.

    Fields:
        loss: Shape (steps, E), mean cross-entropy in nats.
        accuracy: Shape (E,), on the last 297 digits.
        vanished: Share of the gradients of the outputs z that are zero in the first step.
        skipped: Steps with an infinite or NaN gradient, which changed nothing.
    """

    loss: Tensor
    accuracy: Tensor
    vanished: float
    skipped: int


def train_digits(
    arithmetic: Arithmetic,
    *,
    seeds: int = 3,
    steps: int = 400,
    learning_rate: float = 0.03,
    copies: int = 1,
    hidden: int = 32,
) -> DigitsRun:
    """Plain gradient descent on 1,500 digits, the whole batch in each step.

    Args:
        arithmetic: Of the run.
        seeds: How many networks, E, side by side.
        steps: Of the run.
        learning_rate: η.
        copies: Equal samples for which each digit stands; the loss is the mean over all of them.
        hidden: H.
    """
    images, labels = digits()
    pixels_BD = arithmetic.round(images.flatten(1).float())
    x_BD, y_BC = pixels_BD[:1500], F.one_hot(labels[:1500], 10).float()
    masters = _initial(seeds, hidden)
    weights = [arithmetic.round(master) for master in masters]
    losses, vanished, skipped = [], 0.0, 0
    for step in range(steps):
        hidden_EBH, logits_EBC = _forward(arithmetic, weights, x_BD)
        log_probabilities = logits_EBC.log_softmax(-1)
        losses.append(-(log_probabilities * y_BC).sum(-1).mean(-1))
        share = arithmetic.loss_scale / (1500 * copies)
        delta_EBC = arithmetic.round((log_probabilities.exp() - y_BC) * share)
        if step == 0:
            vanished = (delta_EBC == 0).float().mean().item()
        gradients = _backward(arithmetic, weights, x_BD, hidden_EBH, delta_EBC, copies)
        if all(gradient.isfinite().all() for gradient in gradients):
            _step(arithmetic, weights, masters, gradients, learning_rate)
        else:
            skipped += 1
    right = _forward(arithmetic, weights, pixels_BD[1500:])[1].argmax(-1) == labels[1500:]
    return DigitsRun(torch.stack(losses), right.float().mean(-1), vanished, skipped)


def lost_updates(format: FloatFormat, learning_rate: float) -> float:
    """Share of the weights with a gradient that the first step of ``train_digits`` cannot move.

    Args:
        format: Of the weights; the gradients are computed in float32.
        learning_rate: η.
    """
    images, labels = digits()
    x_BD, y_BC = images[:1500].flatten(1).float(), F.one_hot(labels[:1500], 10).float()
    exact, weights = Arithmetic(), [format.round(master) for master in _initial(1, 32)]
    hidden_EBH, logits_EBC = _forward(exact, weights, x_BD)
    delta_EBC = (logits_EBC.softmax(-1) - y_BC) / 1500
    lost = counted = 0
    gradients = _backward(exact, weights, x_BD, hidden_EBH, delta_EBC, 1)
    for weight, gradient in zip(weights, gradients, strict=True):
        stays = format.round(weight - learning_rate * gradient) == weight
        lost += (stays & (gradient != 0)).sum().item()
        counted += (gradient != 0).sum().item()
    return lost / counted


def _initial(seeds: int, hidden: int) -> list[Tensor]:
    """Weights of E networks as PyTorch initialises linear layers: uniform, ±1/√inputs."""
    shapes = [(64, hidden), (1, hidden), (hidden, 10), (1, 10)]
    bounds = [64**-0.5, 64**-0.5, hidden**-0.5, hidden**-0.5]
    generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    return [
        torch.stack([(2 * torch.rand(shape, generator=g) - 1) * bound for g in generators])
        for shape, bound in zip(shapes, bounds, strict=True)
    ]


def _forward(
    arithmetic: Arithmetic, weights: Sequence[Tensor], x_BD: Tensor
) -> tuple[Tensor, Tensor]:
    first_EDH, first_bias, second_EHC, second_bias = weights
    x_EBD = x_BD.expand(len(first_EDH), *x_BD.shape)
    hidden_EBH = arithmetic.round(arithmetic.product(x_EBD, first_EDH) + first_bias).relu()
    return hidden_EBH, arithmetic.round(arithmetic.product(hidden_EBH, second_EHC) + second_bias)


def _backward(
    arithmetic: Arithmetic,
    weights: Sequence[Tensor],
    x_BD: Tensor,
    hidden_EBH: Tensor,
    delta_EBC: Tensor,
    copies: int,
) -> list[Tensor]:
    """Gradients of the four weights, from those of the outputs."""
    back_EBH = arithmetic.round(arithmetic.product(delta_EBC, weights[2].mT)) * (hidden_EBH > 0)
    x_EDB = x_BD.t().expand(len(hidden_EBH), *x_BD.t().shape)
    sums = [
        arithmetic.product(x_EDB, back_EBH),
        back_EBH.sum(1, keepdim=True),
        arithmetic.product(hidden_EBH.mT, delta_EBC),
        delta_EBC.sum(1, keepdim=True),
    ]
    return [arithmetic.round(copies * total) for total in sums]


def _step(
    arithmetic: Arithmetic,
    weights: Sequence[Tensor],
    masters: Sequence[Tensor],
    gradients: Sequence[Tensor],
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
