"""A small transformer on the Python reference, in PyTorch's own 16-bit arithmetic.

Chapter: course/08_precision.ipynb.  Dimension key: B windows, T bytes.
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch.nn import functional as F

from companion.data import reference_text
from companion.precision.loss_scaler import LossScaler
from companion.precision.master_weights import MasterWeights
from companion.transformer import Transformer, TransformerConfig

__all__ = ["TextRun", "byte_entropy", "small_transformer", "train_text"]

_CONFIG = TransformerConfig(vocabulary=256, width=32, layers=2, heads=2, hidden=64, max_length=32)


class TextRun(NamedTuple):
    """Mean loss of the last ten steps, in nats per byte, and the steps that were skipped.

    A run ends at the first loss that is NaN, and is NaN.
    """

    loss: float
    skipped: int


def train_text(
    *,
    weights: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    masters: bool = False,
    scaled: bool = False,
    epsilon: float = 1e-8,
    seed: int = 0,
    steps: int = 80,
) -> TextRun:
    """Train with AdamW, 8 windows of 32 bytes in each step.

    Args:
        weights: Dtype of the model.
        autocast: Compute under ``torch.autocast`` in this dtype.
        masters: Let the optimizer work on 32-bit copies of the weights.
        scaled: Scale the loss, by a ``LossScaler`` that starts at 2^16.
        epsilon: Of AdamW.
        seed: Of the weights and the windows.
        steps: Of the run, at least 10.
    """
    generator = torch.Generator().manual_seed(seed)
    text = torch.tensor(list(reference_text().encode()))
    model = Transformer(_CONFIG, generator=generator).to(weights)
    options = {"lr": 6e-3, "eps": epsilon}
    if masters:
        optimizer = MasterWeights(torch.optim.AdamW, model.parameters(), **options)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **options)
    scaler = LossScaler() if scaled else None
    losses, skipped = [], 0
    for _ in range(steps):
        starts = torch.randint(0, len(text) - 33, (8, 1), generator=generator)
        window_BT1 = text[starts + torch.arange(33)]
        with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
            logits_BTV = model(window_BT1[:, :-1]).float()
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), window_BT1[:, 1:].flatten())
        optimizer.zero_grad()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            skipped += not scaler.step(optimizer)
            scaler.update()
        losses.append(loss.item())
        if math.isnan(losses[-1]):
            break
    return TextRun(sum(losses[-10:]) / 10, skipped)


def small_transformer() -> tuple[Transformer, torch.Tensor]:
    """The model of ``train_text`` before training, and 16 windows of 32 bytes for it."""
    model = Transformer(_CONFIG, generator=torch.Generator().manual_seed(0))
    text = torch.tensor(list(reference_text()[: 16 * 32].encode()))
    return model, text.view(16, 32)


def byte_entropy() -> float:
    """Nats per byte that the frequencies of bytes alone leave, in the text of ``train_text``."""
    counts = torch.bincount(torch.tensor(list(reference_text().encode()))).double()
    shares = counts[counts > 0] / counts.sum()
    return -(shares * shares.log()).sum().item()
