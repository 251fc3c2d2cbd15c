"""Low-rank adaptation (LoRA) of a frozen linear map.

    y = x Wᵀ + b + s · (x Aᵀ) Bᵀ,    B = 0 at initialisation

Source: Hu et al. 2021, arXiv:2106.09685, §4.1.
Chapter: course/07_lora.ipynb.  Dimension key: I inputs, O outputs, R rank.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from companion.lora.four_bit.quantized import QuantizedLinear
from companion.lora.layer import LoRALayer, drawn, wide_dtype
from companion.lora.low_rank import add_low_rank, lora_delta

__all__ = ["LoRALinear", "dense_weight", "is_conv1d", "is_linear"]


class LoRALinear(LoRALayer):
    """A frozen linear layer plus a trainable rank-R update.

        y = base(x) + s · (drop(x) Aᵀ) Bᵀ

    Trains R·(I+O) parameters in place of I·O. At initialisation the output equals ``base(x)``
    exactly, because B = 0; A is uniform in ±1/√I, the rule of ``nn.Linear``.

    Source: Hu et al. 2021, arXiv:2106.09685, §4.1; dropout on the update's input is that of the
    authors' code. Difference: their A is normal in the paper, uniform in the code and here.

    Args:
        base: ``nn.Linear``, transformers' ``Conv1D`` (whose weight is (I, O)) or
            ``QuantizedLinear``; its parameters are frozen in place.
        rank: R, with 1 <= R <= min(I, O).
        alpha: Numerator of the scale (dimensionless), > 0.
        dropout: Probability, in [0, 1), with which an input of the update is zeroed in training.
            The base sees every input.
        scaling: "alpha/r", or "alpha/sqrt(r)", which keeps the update's size as R grows.
        generator: Source of A, on its own device; None is torch's default.

    Raises:
        TypeError: If the base is another kind of layer.
        ValueError: If a setting is out of its range.

    Example:
        >>> layer = LoRALinear(nn.Linear(8, 4), rank=2, alpha=4.0)
        >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)
        24
    """

    a_RI: nn.Parameter
    b_OR: nn.Parameter

    @staticmethod
    def update_shape(base: nn.Module, rank: int) -> tuple[int, int]:
        """(O, I)."""
        if not is_linear(base):
            raise TypeError(
                f"base: expected nn.Linear, Conv1D or QuantizedLinear, got {type(base).__name__}"
            )
        return (base.nf, base.nx) if is_conv1d(base) else (base.out_features, base.in_features)

    def add_factors(self, generator: torch.Generator | None) -> None:
        """A is random, B zero."""
        self.out_features, self.in_features = self.update_shape(self.base, self.rank)
        shape_RI, bound = (self.rank, self.in_features), 1 / math.sqrt(self.in_features)
        self.a_RI = drawn(shape_RI, _storage(self.base), bound=bound, generator=generator)
        self.b_OR = nn.Parameter(self.a_RI.new_zeros(self.out_features, self.rank))

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base.bias

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Adapted output, in the dtype that the base returns."""
        if self.is_merged:
            return self.merged_forward(x)
        y = self.base(x)
        x = self.drop(x).to(self.a_RI.dtype)
        return add_low_rank(y, x, self.a_RI, self.b_OR, scale=self.scale).to(y.dtype)

    def delta(self) -> Float[Tensor, "O I"]:
        """The dense update s·B·A, in float32 (float64 where the adapter is)."""
        dtype = wide_dtype(self.b_OR.dtype)
        return lora_delta(self.a_RI.to(dtype), self.b_OR.to(dtype), scale=self.scale)

    def merged_weight(self) -> Tensor:
        """W + s·B·A, shaped as the base's weight, before it is rounded to its dtype."""
        return self.in_base_layout(dense_weight(self.base) + self.delta())

    def in_base_layout(self, weight_OI: Float[Tensor, "O I"]) -> Tensor:
        """A weight shaped as the base stores its own: transposed for ``Conv1D``."""
        return weight_OI.T if is_conv1d(self.base) else weight_OI

    def _base_dtype(self) -> torch.dtype:
        return _storage(self.base).dtype


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a linear map whose weight we know how to read.

    Not so: a subclass of ``nn.Linear`` that computes something else, a parametrised weight, and
    the output layer of ``nn.MultiheadAttention``, which reads the weight and never calls the layer.
    """
    plain = type(module).forward is nn.Linear.forward and not (
        isinstance(module, NonDynamicallyQuantizableLinear) or parametrize.is_parametrized(module)
    )
    return plain or is_conv1d(module) or isinstance(module, QuantizedLinear)


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is transformers' ``Conv1D``; told by its name, to import no transformers."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def dense_weight(base: nn.Module) -> Float[Tensor, "O I"]:
    """The weight of a linear layer as (outputs, inputs), however the layer stores it."""
    if isinstance(base, QuantizedLinear):
        return base.dequantize()
    return base.weight.T if is_conv1d(base) else base.weight


def _storage(base: nn.Module) -> Tensor:
    """An empty tensor of the weight's dtype and device; nothing is dequantised for it."""
    weight = base.quantized if isinstance(base, QuantizedLinear) else base.weight
    return torch.empty(0, dtype=weight.dtype, device=weight.device)
