"""The one policy of every recipe for 16-bit arithmetic: autocast, and for FP16 a scaled loss.

    fp32   as it is
    bf16   forward pass under autocast: the range of float32, so that no gradient vanishes
    fp16   forward pass under autocast, backward pass of s·loss, gradients / s, step unless one
           of them is infinite or NaN

Weights, their gradients and the optimizer's state stay in float32; what autocast casts are copies.

Source: Micikevicius et al. 2018, arXiv:1710.03740, §3; ``torch.autocast`` and
``torch.amp.GradScaler``. How they work: course/08_precision.ipynb.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from companion.training.loop import Stateful

__all__ = ["DTYPE", "Precision", "PrecisionPolicy", "Scaler", "wide", "without_autocast"]

Precision = Literal["fp32", "bf16", "fp16"]
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Asked here and not where it is needed, because torch 2.11 cannot compile the question.
AUTOCAST_DEVICES = frozenset(
    filter(torch.amp.is_autocast_available, ["cpu", "cuda", "hpu", "mps", "mtia", "xla", "xpu"])
)


class Scaler(Protocol):
    """What ``torch.amp.GradScaler`` and ``companion.precision.LossScaler`` have in common."""

    def scale(self, loss: Tensor) -> Tensor: ...

    def step(self, optimizer: Optimizer) -> Any: ...

    def update(self) -> None: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class PrecisionPolicy:
    """In which precision a recipe computes; its training step reads the same in each.

    Compute the loss under ``autocast()``; then ``backward``, ``step`` for each optimizer that this
    backward pass was for, and one ``update``. A training loop that steps two optimizers in turn,
    each after a backward pass of its own, updates after each of them. They may share a policy:
    the scale is then the one that both bear.

    Args:
        precision: "fp32", "bf16" or "fp16".
        device: Where it computes.
        scaler: For "fp16", in place of ``torch.amp.GradScaler(device.type)``.

    Raises:
        ValueError: If the precision is unknown, or has no use for the scaler.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> policy = PrecisionPolicy("fp16", "cpu")
        >>> with policy.autocast():
        ...     y = weight @ torch.ones(2)
        >>> policy.backward(wide(y).mean())
        >>> policy.step(optimizer)
        >>> policy.update()
        >>> y.dtype, weight.dtype, weight[0].tolist()
        (torch.float16, torch.float32, [0.75, 0.75])
    """

    def __init__(
        self, precision: Precision, device: torch.device | str, *, scaler: Scaler | None = None
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
        if scaler is not None and precision != "fp16":
            raise ValueError(
                f'expected a scaler for "fp16" alone, got {type(scaler).__name__} for '
                f"{precision!r}, whose gradients need none"
            )
        self.precision = precision
        self.device = torch.device(device)
        if precision == "fp16" and scaler is None:
            scaler = torch.amp.GradScaler(self.device.type)
        self.scaler = scaler

    @property
    def state(self) -> dict[str, Stateful]:
        """Name → object for a checkpoint: the scaler, where there is one.

        Nothing in "fp32" and "bf16", so that checkpoints of earlier versions fit.
        """
        return {} if self.scaler is None else {"scaler": self.scaler}

    def autocast(self) -> AbstractContextManager[None]:
        """Around a forward pass, evaluation included, and never around ``backward``."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPE[self.precision])

    def backward(self, loss: Tensor, **options: Any) -> None:
        """``loss.backward(**options)``, of s·loss in "fp16": the gradients are s times too large.

        They may be summed over processes as they are: an infinity reaches every sum. Give it a loss
        of 32 bits: the first gradient is s, 2¹⁶ at the start, which a loss in float16 cannot take.
        """
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward(**options)

    def step(self, optimizer: Optimizer) -> None:
        """Unscale the gradients and step; in "fp16" not if one of them is infinite or NaN."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)

    def update(self) -> None:
        """Choose the next s: once for each backward pass, after the step."""
        if self.scaler is not None:
            self.scaler.update()


def wide(tensor: Tensor) -> Tensor:
    """In float32 where it has 16 bits, for sums and means of what autocast returned; else as it is.

    Example:
        >>> wide(torch.ones(1, dtype=torch.float16)).dtype, wide(torch.ones(1).double()).dtype
        (torch.float32, torch.float64)
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Autocast off on the tensor's device; nothing where the device knows no autocast."""
    device = tensor.device.type
    if device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
