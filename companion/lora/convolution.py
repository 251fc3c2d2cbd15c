"""Low-rank adaptation of a frozen two-dimensional convolution.

    y = W ∗ x + b + s · B ∗ (A ∗ x),    A a K×K kernel to R channels, B a 1×1 kernel from them

Source: Hu et al. 2021, arXiv:2106.09685, §4.1, applied to the kernel flattened to a matrix.
Chapter: course/07_lora.ipynb.  Dimension key: I input channels, O output channels, R rank,
K height and width of the kernel (which may differ).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from companion.lora.layer import LoRALayer, drawn, wide_dtype
from companion.lora.low_rank import lora_delta

__all__ = ["LoRAConv2d", "is_conv2d"]


class LoRAConv2d(LoRALayer):
    """A frozen convolution plus a trainable update of its kernel, of rank R as an O×(I·K·K) matrix.

        y = base(x) + s · B ∗ (A ∗ drop(x))

    Trains R·(I·K·K + O) parameters. A has the base's stride, padding and dilation; B starts as 0.

    Source: the shapes are PEFT's, so that files fit. Differences: PEFT's A forgets the base's
    dilation and its padding mode, so there merging would change the output; ours does not. With
    ``groups`` G > 1, A reads all channels and B is split into G groups, as in PEFT; such an update
    cannot be written as one grouped kernel, and merging it is refused.

    Args:
        base: ``nn.Conv2d``; frozen in place.
        rank: R, with 1 <= R <= min(I·K·K, O), divisible by the base's ``groups``.
        alpha: Numerator of the scale (dimensionless), > 0.
        dropout: Probability, in [0, 1), with which an input of the update is zeroed in training.
        scaling: "alpha/r" or "alpha/sqrt(r)".
        generator: Source of A, on its own device; None is torch's default.

    Raises:
        TypeError: If the base is another kind of layer.
        ValueError: If a setting is out of its range, or R is not divisible by ``groups``.

    Example:
        >>> layer = LoRAConv2d(nn.Conv2d(3, 7, 5), rank=2, alpha=4.0)
        >>> layer.a_RIKK.shape, layer.b_OR11.shape
        (torch.Size([2, 3, 5, 5]), torch.Size([7, 2, 1, 1]))
    """

    a_RIKK: nn.Parameter
    b_OR11: nn.Parameter

    @staticmethod
    def update_shape(base: nn.Module, rank: int) -> tuple[int, int]:
        """(O, I·K·K)."""
        if not is_conv2d(base):
            raise TypeError(f"base: expected nn.Conv2d, got {type(base).__name__}")
        if rank % base.groups:
            raise ValueError(f"rank: expected a multiple of groups={base.groups}, got {rank}")
        return base.out_channels, base.in_channels * math.prod(base.kernel_size)

    def add_factors(self, generator: torch.Generator | None) -> None:
        """A is random, B zero."""
        base = self.base
        self.in_channels, self.out_channels = base.in_channels, base.out_channels
        shape_RIKK = (self.rank, base.in_channels, *base.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape_RIKK[1:]))
        self.a_RIKK = drawn(shape_RIKK, base.weight, bound=bound, generator=generator)
        shape_OR11 = (base.out_channels, self.rank // base.groups, 1, 1)
        self.b_OR11 = nn.Parameter(self.a_RIKK.new_zeros(shape_OR11))

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base.bias

    def forward(self, x: Float[Tensor, "*batch I H W"]) -> Float[Tensor, "*batch O H2 W2"]:
        """Adapted output, in the dtype that the base returns."""
        if self.is_merged:
            return self.merged_forward(x)
        base, y = self.base, self.base(x)
        x, padding = self.drop(x).to(self.a_RIKK.dtype), base.padding
        if base.padding_mode != "zeros":
            x, padding = F.pad(x, base._reversed_padding_repeated_twice, base.padding_mode), 0
        low = F.conv2d(x, self.a_RIKK, None, base.stride, padding, base.dilation)
        return (y + F.conv2d(low, self.scale * self.b_OR11, groups=base.groups)).to(y.dtype)

    def delta(self) -> Float[Tensor, "O I K K"]:
        """The update as one kernel s·B·A, in float32 (float64 where the adapter is).

        Raises:
            ValueError: If the base has groups: its kernel could not hold the update.
        """
        if self.base.groups != 1:
            raise ValueError(
                "expected groups=1 to write the update as one kernel, got "
                f"groups={self.base.groups}: each group of the update reads all channels"
            )
        dtype = wide_dtype(self.b_OR11.dtype)
        a, b = self.a_RIKK.flatten(1).to(dtype), self.b_OR11.flatten(1).to(dtype)
        return lora_delta(a, b, scale=self.scale).reshape(self.base.weight.shape)

    def merged_weight(self) -> Float[Tensor, "O I K K"]:
        """W + s·B·A as a kernel, before it is rounded to the base's dtype."""
        return self.base.weight + self.delta()


def is_conv2d(module: nn.Module) -> bool:
    """Whether the module is an ``nn.Conv2d`` that does no more than that."""
    plain = type(module).forward is nn.Conv2d.forward
    return plain and not parametrize.is_parametrized(module)
