"""A small transformer on the Python reference, in PyTorch's own 16-bit arithmetic.

It is trained in float32 first, and then goes on with small steps in one arithmetic or another: the
end of a long run, where the learning rate has fallen, or a fine-tuning.

Chapter: course/08_precision.ipynb.  Dimension key: B windows, T bytes, V vocabulary.
"""

import math
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from companion.data import reference_text
from companion.precision.loss_scaler import LossScaler
from companion.precision.master_weights import MasterWeights
from companion.precision.summation import stochastic_round
from companion.transformer import Transformer, TransformerConfig

__all__ = ["TextRun", "continue_text", "held_out_loss", "small_transformer", "train_text"]

_CONFIG = TransformerConfig(vocabulary=256, width=32, layers=2, heads=2, hidden=64, max_length=32)


class TextRun(NamedTuple):
    """What a run of small steps gave.

    Fields:
        loss: ``held_out_loss`` at its end; NaN, and the run over, once a training loss is NaN.
        moved: Share of the weights that differ from where they started; NaN as the loss.
        vanished: Share of the weights whose gradient was zero in the first step.
    """

    loss: float
    moved: float
    vanished: float


def train_text(*, seed: int = 0, steps: int = 300, learning_rate: float = 6e-3) -> Transformer:
    """Train in float32 with AdamW, on 8 windows of 32 bytes in each step."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(_CONFIG, generator=generator)
    optimizer = AdamW(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        _loss(model, _windows(generator)).backward()
        optimizer.step()
    return model


def continue_text(
    start: Transformer,
    *,
    weights: torch.dtype = torch.float32,
    masters: bool = False,
    stochastic: bool = False,
    autocast: torch.dtype | None = None,
    copies: int = 1,
    loss_scale: float = 1.0,
    epsilon: float = 1e-8,
    seed: int = 0,
    steps: int = 80,
    learning_rate: float = 3e-4,
) -> TextRun:
    """Go on with small steps, on a copy of the model.

    Args:
        start: The model; it stays as it is.
        weights: Dtype of the weights in use.
        masters: Let the optimizer work on 32-bit copies of them.
        stochastic: Compute each update in 32 bits and round the new weights to ``weights`` by
            dice; nothing of 32 bits outlives the step but the optimizer's state.
        autocast: Compute under ``torch.autocast`` in this dtype.
        copies: Equal batches for which each batch stands. The loss is the mean over all of them,
            and their gradients are added up in the dtype of what the optimizer updates.
        loss_scale: Taken out of the gradients again.
        epsilon: Of AdamW.
        seed: Of the windows.
        steps: Of the run.
        learning_rate: Of AdamW.
    """
    generator = torch.Generator().manual_seed(seed)
    model = deepcopy(start).to(weights)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    options = {"lr": learning_rate, "eps": epsilon}
    if masters or stochastic:
        optimizer = MasterWeights(AdamW, model.parameters(), **options)
    else:
        optimizer = AdamW(model.parameters(), **options)
    scaler = LossScaler(init_scale=loss_scale, static=True) if loss_scale != 1 else None
    vanished = 0.0
    for step in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
            loss = _loss(model, _windows(generator)) / copies
        (scaler.scale(loss) if scaler else loss).backward()
        if loss.isnan():
            return TextRun(math.nan, math.nan, vanished)
        if step == 0:
            vanished = _share([p.grad == 0 for p in model.parameters()])
        if isinstance(optimizer, MasterWeights):
            optimizer.collect_gradients()
        if scaler:
            scaler.unscale_(optimizer)
        for updated in (p for group in optimizer.param_groups for p in group["params"]):
            updated.grad.mul_(copies)
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        if stochastic:
            _round_by_dice(model, optimizer, generator)
    moved = _share([p != b for p, b in zip(model.parameters(), before, strict=True)])
    return TextRun(held_out_loss(model), moved, vanished)


@torch.no_grad()
def held_out_loss(model: nn.Module) -> float:
    """Nats per byte on 512 windows of the text's last tenth, which is not trained on."""
    generator = torch.Generator().manual_seed(99)
    return _loss(model, _windows(generator, count=512, held_out=True)).item()


def small_transformer() -> tuple[Transformer, Tensor]:
    """The model of ``train_text`` before training, and 16 windows of 32 bytes for it."""
    model = Transformer(_CONFIG, generator=torch.Generator().manual_seed(0))
    text = torch.tensor(list(reference_text()[: 16 * 32].encode()))
    return model, text.view(16, 32)


def _windows(generator: torch.Generator, *, count: int = 8, held_out: bool = False) -> Tensor:
    """Shape (count, 33): 32 bytes and, one further on, what is to be predicted."""
    text = _text()
    border = len(text) * 9 // 10
    low, high = (border, len(text) - 32) if held_out else (0, border - 32)
    starts = torch.randint(low, high, (count, 1), generator=generator)
    return text[starts + torch.arange(33)]


@cache
def _text() -> Tensor:
    return torch.tensor(list(reference_text().encode()))


def _loss(model: nn.Module, window_BT1: Tensor) -> Tensor:
    logits_BTV = model(window_BT1[:, :-1]).float()
    return F.cross_entropy(logits_BTV.flatten(0, 1), window_BT1[:, 1:].flatten())


@torch.no_grad()
def _round_by_dice(model: nn.Module, optimizer: MasterWeights, generator: torch.Generator) -> None:
    for parameter, master in zip(model.parameters(), optimizer.masters, strict=True):
        parameter.copy_(stochastic_round(master, parameter.dtype, generator=generator))
        master.copy_(parameter)


def _share(flags: list[Tensor]) -> float:
    return sum(flag.sum().item() for flag in flags) / sum(flag.numel() for flag in flags)
