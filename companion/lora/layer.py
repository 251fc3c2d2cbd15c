"""What every adapted layer shares: a frozen base, a scale, and a state, merged or not.

Chapter: course/07_lora.ipynb.  Dimension key: R rank.
"""

import copy
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from companion.adapters.own_weight import check_own_weight
from companion.checks import typed

__all__ = ["LoRALayer", "Scaling", "Variant", "drawn", "wide_dtype"]

Scaling = Literal["alpha/r", "alpha/sqrt(r)"]
Variant = Literal["lora", "rslora", "dora", "pissa"]

_SCALINGS = ("alpha/r", "alpha/sqrt(r)")


class LoRALayer(nn.Module):
    """A frozen layer and its trainable low-rank update.

        s = alpha / R,    or with "alpha/sqrt(r)"    s = alpha / √R

    Sources: Hu et al. 2021, arXiv:2106.09685, §4.1; Kalajdzievski 2023, arXiv:2312.03732 (√R).
    ``train()`` and ``eval()`` never change a weight; only ``merge_lora_`` does.

    Args:
        base: Layer to adapt; its parameters are frozen in place.
        rank: R, at least 1 and at most the rank that an update of the base's weight can have.
        alpha: Numerator of the scale (dimensionless), > 0.
        dropout: Probability, in [0, 1), with which an input of the update is zeroed in training.
        scaling: Which of the two scales.
        generator: Source of the random factor, on its own device; None is torch's default.

    Raises:
        TypeError: If the base is another kind of layer.
        ValueError: If a setting is out of its range, or the base's weight is no parameter of its
            own (pruning, parametrizations); the base is then left as it was.
    """

    base: nn.Module
    rank: int
    alpha: float
    scaling: Scaling
    init: str
    """"pissa" once ``init_pissa_`` has moved a part of the base into the update, else "lora"."""
    kept_weight: nn.Parameter | None
    """The base's own weight while the layer is merged, if it was to be kept."""
    config_was_tied: bool
    """Whether merging set ``tie_word_embeddings`` of the model's config to False."""
    merged: Tensor | None
    """True while the layer is merged, else None. A buffer, as ``kept_weight`` is a parameter:
    so the ``state_dict`` of a merged model does not load into an unmerged one, or back."""

    @typed
    def __init__(
        self,
        base: nn.Module,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        scaling: Scaling = "alpha/r",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        max_rank = min(self.update_shape(base, rank))
        if not 1 <= rank <= max_rank:
            raise ValueError(f"rank must be in [1, {max_rank}], got {rank}")
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"alpha: expected a finite number > 0, got {alpha}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
        if scaling not in _SCALINGS:
            raise ValueError(f"scaling: expected {' or '.join(_SCALINGS)}, got {scaling!r}")
        check_own_weight(base)
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling = rank, alpha, scaling
        self.init = "lora"
        self.config_was_tied = False
        self.drop = nn.Dropout(dropout)
        self.register_parameter("kept_weight", None)
        self.register_buffer("merged", None)
        self.add_factors(generator)
        self.train(base.training)  # added to a model in eval(), its dropout must not start to act

    @staticmethod
    def update_shape(base: nn.Module, rank: int) -> tuple[int, int]:
        """Rows and columns of B·A. Raises an error if the base or the rank does not serve."""
        raise NotImplementedError

    def add_factors(self, generator: torch.Generator | None) -> None:
        """Make A and B: one of them random, the other zero."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """s, the factor of B·A (dimensionless)."""
        return self.alpha / (self.rank if self.scaling == "alpha/r" else math.sqrt(self.rank))

    @property
    def dropout(self) -> float:
        """Probability with which an input of the update is zeroed in training."""
        return self.drop.p

    @property
    def variant(self) -> Variant:
        """Which of the published methods this layer is."""
        if self.init == "pissa":
            return "pissa"
        return "lora" if self.scaling == "alpha/r" else "rslora"

    @property
    def is_merged(self) -> bool:
        """Whether the base's weight holds the update now."""
        return self.merged is not None

    @property
    def weight(self) -> Tensor:
        """The weight in effect, shaped and rounded as the base's, with gradients to the adapter.

        For code that reads a layer's weight in place of calling the layer: what it computes is
        then adapted as well, but at the price of a dense weight at each reading.
        """
        return self.base.weight if self.is_merged else self.merged_weight().to(self._base_dtype())

    def delta(self) -> Tensor:
        """The dense update s·B·A, in float32 (float64 where the adapter is)."""
        raise NotImplementedError

    def merged_weight(self) -> Tensor:
        """The weight after merging, shaped as the base's, before it is rounded to its dtype."""
        raise NotImplementedError

    def set_base_weight(self, weight: Tensor) -> None:
        """Give the base another weight. A model that holds the same layer keeps it as it was."""
        parameter = nn.Parameter(weight, requires_grad=False)
        if "forward" in vars(self.base):  # bound to this very object, as accelerate's hooks are
            self.base.weight = parameter
            return
        twin = copy.copy(self.base)
        twin._parameters = self.base._parameters | {"weight": parameter}
        self.base = twin

    def adapter_parameters(self) -> Iterator[nn.Parameter]:
        """What is trained: A, B and whatever a variant adds."""
        for name, parameter in self.named_parameters(recurse=False):
            if name != "kept_weight":
                yield parameter

    def merged_forward(self, x: Tensor) -> Tensor:
        """The output of a base that holds the update.

        Raises:
            RuntimeError: In training with gradients on: the adapter would get none.
        """
        if self.training and torch.is_grad_enabled():
            raise RuntimeError(
                "expected an unmerged layer in training, got a merged one, whose adapter gets no "
                "gradient: call unmerge_lora_(model) to train it, or model.eval() to use it"
            )
        return self.base(x)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        state = ", merged" if self.is_merged else ""
        return f"rank={self.rank}, alpha={self.alpha:g}, variant={self.variant!r}{state}"

    def _base_dtype(self) -> torch.dtype:
        return self.base.weight.dtype


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32: in a bfloat16 adapter, small updates would be rounded away.

    Example:
        >>> wide_dtype(torch.bfloat16), wide_dtype(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def drawn(
    shape: tuple[int, ...],
    like: Tensor,
    *,
    bound: float | None,
    generator: torch.Generator | None,
) -> nn.Parameter:
    """A new factor on the device of ``like``: uniform in ±bound, or standard normal if None.

    It is drawn in the adapter's dtype on the generator's own device, then moved.
    """
    device = like.device if generator is None else generator.device
    values = torch.empty(shape, device=device, dtype=wide_dtype(like.dtype))
    if bound is None:
        values.normal_(generator=generator)
    else:
        values.uniform_(-bound, bound, generator=generator)
    return nn.Parameter(values.to(like.device))
