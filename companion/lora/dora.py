"""Weight-decomposed low-rank adaptation (DoRA): a magnitude and a direction for each output.

    W′ = m ⊙ (W + s B A) / ‖W + s B A‖,    one norm and one m for each row

Source: Liu et al. 2024, arXiv:2402.09353, §4.
Chapter: course/07_lora.ipynb.  Dimension key: I inputs, O outputs, R rank.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion.lora.layer import Variant, wide_dtype
from companion.lora.linear import LoRALinear, dense_weight
from companion.lora.low_rank import add_low_rank

__all__ = ["DoRALinear"]


class DoRALinear(LoRALinear):
    """A frozen linear layer whose rows get a trained length and a low-rank change of direction.

        y = f ⊙ (base(x) + s · (drop(x) Aᵀ) Bᵀ) + (1 − f) ⊙ bias,    f = m / ‖W + s B A‖

    The norm counts as a constant in the backward pass, which saves memory and, by the authors'
    measurements, costs no accuracy. m starts as ‖W‖, so f = 1 and the output is the base's.

    Source: Liu et al. 2024, arXiv:2402.09353, equations 5 and 6 and §4.3. Differences: the paper
    says "column" of a matrix whose columns are our rows. PEFT lets dropout act on a part of the
    base's branch too; here it acts on the update's input alone. A row that is zero stays zero.

    Args:
        base, rank, alpha, dropout, scaling, generator: As for ``LoRALinear``.

    Raises:
        TypeError, ValueError: As ``LoRALinear``.

    Example:
        >>> layer = DoRALinear(nn.Linear(8, 4), rank=2, alpha=4.0)
        >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)
        28
    """

    magnitude_O: nn.Parameter

    def add_factors(self, generator: torch.Generator | None) -> None:
        """A is random, B zero, and the magnitude that of the weight's rows."""
        super().add_factors(generator)
        self.magnitude_O = nn.Parameter(self.direction_norm().to(self.a_RI.dtype))

    @property
    def variant(self) -> Variant:
        """Which of the published methods this layer is."""
        return "dora"

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Adapted output, in the dtype that the base returns."""
        if self.is_merged:
            return self.merged_forward(x)
        y = self.base(x)
        x = self.drop(x).to(self.a_RI.dtype)
        unscaled = add_low_rank(y, x, self.a_RI, self.b_OR, scale=self.scale)
        factor_O = self._factor()
        if self.bias is None:
            return (unscaled * factor_O).to(y.dtype)
        return torch.addcmul((1 - factor_O) * self.bias, unscaled, factor_O).to(y.dtype)

    @torch.no_grad()
    def direction_norm(self) -> Float[Tensor, "O"]:
        """‖W + s·B·A‖ of each row, in float32 (float64 where the adapter is), without gradient."""
        return self._direction().norm(dim=1)

    def merged_weight(self) -> Tensor:
        """f ⊙ (W + s·B·A), shaped as the base's weight, before it is rounded to its dtype."""
        return self.in_base_layout(self._factor()[:, None] * self._direction())

    def _direction(self) -> Float[Tensor, "O I"]:
        return dense_weight(self.base).to(wide_dtype(self._base_dtype())) + self.delta()

    def _factor(self) -> Float[Tensor, "O"]:
        norm_O = self.direction_norm()
        # 0/0 would be NaN; the row is zero, and stays so.
        return self.magnitude_O / norm_O.clamp_min(torch.finfo(norm_O.dtype).tiny)
