"""A linear layer whose weight is stored in NF4: the frozen base of QLoRA.

    y = x Ŵᵀ + b,    Ŵ = dequantise(W), made anew in the forward and in the backward pass

Source: Dettmers et al. 2023, arXiv:2305.14314, §3, eq. 5.
Chapter: course/07_lora.ipynb.  Dimension key: I inputs, O outputs.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from companion.adapters.matching import matching_layers, replace_layers_
from companion.adapters.own_weight import check_own_weight
from companion.checks import typed
from companion.lora.four_bit.nf4 import QuantizedWeight, nf4_quantize
from companion.lora.layer import LoRALayer

__all__ = ["QuantizedLinear", "dequantize_base_", "quantize_base_"]

_STORED = ("packed", "scales", "group_scales", "mean_scale")
_TABLES = ("byte_values", "scale_code")  # the same for all layers: not in the state_dict


class QuantizedLinear(nn.Module):
    """A linear layer that keeps 4.127 bits of each weight, and no gradient for them.

    Computes in the dtype of x, or in autocast's; x and the bias get gradients. The codes and their
    scales are buffers: they go into the ``state_dict`` and move between devices, but ``.half()``
    and the like leave them alone and only change ``dtype``.

    Args:
        base: The layer to store; it is left as it is. Its bias is shared, not copied.
        block: Weights that share a scale.
        double: Whether the scales are quantised too.

    Raises:
        TypeError: If ``base`` is not a plain ``nn.Linear``.
        ValueError: As ``nf4_quantize``.

    Example:
        >>> layer = QuantizedLinear(nn.Linear(512, 256, bias=False))
        >>> layer.quantized.bytes  # in place of 524288 in float32
        67620
    """

    packed: Tensor
    scales: Tensor
    group_scales: Tensor | None
    mean_scale: Tensor | None
    byte_values: Tensor
    scale_code: Tensor | None
    dtype: torch.dtype
    """What ``dequantize`` returns: the base's dtype, until the module is moved to another."""

    @typed
    def __init__(self, base: nn.Linear, *, block: int = 64, double: bool = True) -> None:
        super().__init__()
        if type(base) is not nn.Linear:  # a subclass may compute something else
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        check_own_weight(base)
        quantized = nf4_quantize(base.weight, block=block, double=double)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.block, self.dtype = block, base.weight.dtype
        for name in _STORED + _TABLES:
            self.register_buffer(name, getattr(quantized, name), persistent=name in _STORED)
        self.register_parameter("bias", base.bias)
        self.train(base.training)

    @property
    def quantized(self) -> QuantizedWeight:
        """The codes and scales; the tensors are this module's own buffers."""
        return QuantizedWeight(
            packed=self.packed,
            scales=self.scales,
            group_scales=self.group_scales,
            mean_scale=self.mean_scale,
            byte_values=self.byte_values,
            scale_code=self.scale_code,
            shape=torch.Size((self.out_features, self.in_features)),
            dtype=self.dtype,
            block=self.block,
        )

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """``dequantize()``, for code that reads a layer's weight in place of calling the layer.

        So does ``nn.TransformerEncoderLayer`` in eval; T5 asks for the dtype.
        """
        return self.dequantize()

    def dequantize(self) -> Float[Tensor, "O I"]:
        """The weight that the layer computes with, as a new dense tensor."""
        return self.quantized.dequantize()

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """What ``nn.Linear`` with the dequantised weight returns."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return _DequantizedLinear.apply(x, bias, self.quantized)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, block={self.block}, "
            f"double={self.group_scales is not None}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":
        """Every move of a module passes here: let it change devices, but no buffer's dtype."""
        before = {name: getattr(self, name) for name in _STORED + _TABLES}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if buffer is not None and moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.packed.device)).dtype
        return self


@typed
def quantize_base_(
    model: nn.Module, *, targets: Sequence[str], block: int = 64, double: bool = True
) -> nn.Module:
    """Store the matching linear layers in NF4, in place; then ``add_lora`` makes it QLoRA.

    Args:
        model: A model without LoRA layers.
        targets: As for ``add_lora``: a layer's dotted name, or the end of it after a dot.
        block, double: As for ``nf4_quantize``.

    Returns:
        The same model. It is unchanged if anything is refused.

    Raises:
        TypeError: If ``targets`` is one string.
        ValueError: If a target matches no ``nn.Linear`` (the message names near misses), a layer
            shares its weight with another one or has NaN or infinity in it, or the model has LoRA
            layers already.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 5))
        >>> quantize_base_(model, targets=["0"])
        Sequential(
          (0): QuantizedLinear(in_features=64, out_features=3, bias=True, block=64, double=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=5, bias=True)
        )
    """
    for name, module in model.named_modules():
        if isinstance(module, LoRALayer):
            raise ValueError(
                f"{name or 'model'}: expected a layer without LoRA, got {type(module).__name__}: "
                "quantise the base first, then add_lora"
            )
    layers = matching_layers(
        model, targets, accepts=lambda module: type(module) is nn.Linear, expected="nn.Linear"
    )
    _refuse_shared_weights(model, layers)
    new = {}
    for layer, name in layers.items():
        try:
            new[layer] = QuantizedLinear(layer, block=block, double=double)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    replace_layers_(model, new)
    return model


@typed
def dequantize_base_(model: nn.Module) -> nn.Module:
    """Turn every ``QuantizedLinear`` into a frozen ``nn.Linear`` with the same outputs, in place.

    The quantisation's error stays: this is what a LoRA that was trained on the quantised base fits,
    and what it can be merged into.

    Args:
        model: A model with quantised layers, adapted or not.

    Returns:
        The same model.

    Raises:
        ValueError: If no layer is quantised, or the model is such a layer itself.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 3))
        >>> dequantize_base_(quantize_base_(model, targets=["0"]))
        Sequential(
          (0): Linear(in_features=64, out_features=3, bias=True)
        )
    """
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    if not layers or model in layers:
        raise ValueError(
            f"expected a model that holds QuantizedLinear layers, got {'one' if layers else 'none'}"
        )
    replace_layers_(model, {layer: _dense(layer) for layer in layers})
    return model


class _DequantizedLinear(torch.autograd.Function):
    """x Ŵᵀ + b; keeps the codes for the backward pass, not the dense Ŵ."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, quantized: QuantizedWeight) -> Tensor:
        return F.linear(x, quantized.dequantize(x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.quantized = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        wants_x, wants_bias, _ = ctx.needs_input_grad
        grad_x = grad_y @ ctx.quantized.dequantize(grad_y.dtype) if wants_x else None
        grad_bias = grad_y.reshape(-1, grad_y.shape[-1]).sum(0) if wants_bias else None
        return grad_x, grad_bias, None


def _refuse_shared_weights(model: nn.Module, layers: Mapping[nn.Module, str]) -> None:
    """A weight that another layer uses too would stay in memory, and the tie would be lost."""
    users = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            users[parameter].append(name)
    for layer, name in layers.items():
        for other in users[layer.weight]:
            if other != name:
                raise ValueError(
                    f"{name}: expected a weight of its own, got one shared with {other}"
                )


def _dense(layer: QuantizedLinear) -> nn.Linear:
    linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    linear.weight = nn.Parameter(layer.dequantize(), requires_grad=False)
    linear.bias = layer.bias
    return linear.train(layer.training)
