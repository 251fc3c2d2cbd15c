"""What the training recipe learns: digits from pictures, or the next byte of a text.

A task draws row numbers, so that all ranks can agree on a batch without sending it, and gives the
sum of the rows' losses, so that parts of different length still add up to the mean of the batch.

Chapter: course/11_collectives.ipynb.  Dimension key: B batch, T tokens.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.data import digits, reference_text
from companion.transformer import Transformer, TransformerConfig

__all__ = ["MODELS", "DigitsTask", "Task", "TextTask", "make_model"]

CONTEXT = 64  # bytes that the transformer sees
MODELS = {"digits": ("mlp", "cnn"), "text": ("transformer",)}  # the first is the default


class Task(Protocol):
    """What the recipe asks of its data."""

    rows: int  # to draw from

    def loss_sum(self, model: nn.Module, rows_B: Tensor) -> Tensor: ...
    def held_out(self, model: nn.Module) -> dict[str, float]: ...


class DigitsTask:
    """The first 1500 digits to learn, the other 297 to be asked about.

    Args:
        dtype: Of the pictures.
        device: Of pictures and labels.
    """

    rows = 1500

    def __init__(self, *, dtype: torch.dtype, device: torch.device) -> None:
        images, labels = digits()
        self._images, self._labels = images.to(device, dtype), labels.to(device)

    def loss_sum(self, model: nn.Module, rows_B: Tensor) -> Tensor:
        """Cross-entropy of these rows, added up."""
        rows_B = rows_B.to(self._labels.device)
        return F.cross_entropy(model(self._images[rows_B]), self._labels[rows_B], reduction="sum")

    @torch.no_grad()
    def held_out(self, model: nn.Module) -> dict[str, float]:
        """Share of the unseen digits that are recognised."""
        right = model(self._images[self.rows :]).argmax(1) == self._labels[self.rows :]
        return {"accuracy": right.double().mean().item()}


class TextTask:
    """The Python reference in bytes: 95% to learn, the rest to be asked about.

    Args:
        device: Of the bytes.
        context: T, bytes that are predicted in one row.
    """

    def __init__(self, *, device: torch.device, context: int = CONTEXT) -> None:
        text = torch.tensor(list(reference_text().encode()), device=device)
        learned = len(text) * 95 // 100
        self._learned, self._unseen = text[:learned], text[learned:]
        self._window_T1 = torch.arange(context + 1, device=device)
        self.rows = learned - context

    def loss_sum(self, model: nn.Module, rows_B: Tensor) -> Tensor:
        """Cross-entropy of the windows that start at these rows: mean per byte, added up."""
        window_BT1 = self._learned[rows_B.to(self._learned.device)[:, None] + self._window_T1]
        return _nats(model, window_BT1) * len(rows_B)

    @torch.no_grad()
    def held_out(self, model: nn.Module) -> dict[str, float]:
        """Nats per byte of the unseen text, in windows side by side."""
        context = len(self._window_T1) - 1
        starts_N = torch.arange(0, len(self._unseen) - context, context, device=self._unseen.device)
        return {
            "nats_per_byte": _nats(model, self._unseen[starts_N[:, None] + self._window_T1]).item()
        }


def _nats(model: nn.Module, window_BT1: Tensor) -> Tensor:
    scores_BTV = model(window_BT1[:, :-1])
    return F.cross_entropy(scores_BTV.flatten(0, 1), window_BT1[:, 1:].flatten())


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def _transformer() -> nn.Module:
    """Over bytes, small enough for a laptop's processor."""
    sizes = {"width": 64, "layers": 2, "heads": 4, "hidden": 176}
    return Transformer(TransformerConfig(vocabulary=256, max_length=CONTEXT, tied=False, **sizes))


_MAKERS: dict[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "transformer": _transformer,
}


def make_model(name: str, *, seed: int) -> nn.Module:
    """A fresh model, the same for the same seed; the global random state stays as it was.

    Example:
        >>> sum(p.numel() for p in make_model("mlp", seed=0).parameters())
        9610
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _MAKERS[name]()
