"""PiSSA: train the largest singular directions of a weight and freeze the rest.

    W = U S Vᵀ,    s B A = U_R S_R V_Rᵀ,    W ← W − s B A

Source: Meng et al. 2024, arXiv:2404.02948, §3.
Chapter: course/07_lora.ipynb.  Dimension key: I inputs, O outputs, R rank, K min(I, O).
"""

import torch

from companion.adapters.own_weight import check_own_weight
from companion.checks import typed
from companion.lora.dora import DoRALinear
from companion.lora.four_bit.quantized import QuantizedLinear
from companion.lora.layer import wide_dtype
from companion.lora.linear import LoRALinear, dense_weight
from companion.lora.low_rank import lora_delta

__all__ = ["init_pissa_"]


@typed
@torch.no_grad()
def init_pissa_(layer: LoRALinear) -> None:
    """Move the R largest singular directions of a layer's weight into its adapter, in place.

        A = √(S_R / s) V_Rᵀ,    B = U_R √(S_R / s),    base weight = W − s B A

    The layer computes what it did, up to rounding, but trains the directions in which the weight
    is largest. The residual is a new parameter: a layer tied to the old one keeps the whole weight.

    Source: Meng et al. 2024, arXiv:2404.02948, §3, with a full decomposition. Difference: there
    s = 1; dividing the singular values by s makes it hold for every s, as in PEFT.

    Args:
        layer: A ``LoRALinear`` as it was made: not trained, merged, quantised or a DoRA layer.

    Raises:
        TypeError: If it is not a ``LoRALinear``, or a DoRA layer.
        ValueError: If its update is not zero, its base is quantised or its weight is not finite.
        RuntimeError: If it is merged.

    Example:
        >>> layer = LoRALinear(torch.nn.Linear(8, 4, bias=False), rank=2, alpha=4.0)
        >>> before = torch.linalg.svdvals(layer.base.weight)
        >>> init_pissa_(layer)
        >>> after = torch.linalg.svdvals(layer.base.weight)
        >>> torch.allclose(after[:2], before[2:], atol=1e-6), bool(after[2] < 1e-5)
        (True, True)
    """
    if not isinstance(layer, LoRALinear) or isinstance(layer, DoRALinear):
        raise TypeError(f"layer: expected LoRALinear, got {type(layer).__name__}")
    if layer.is_merged:
        raise RuntimeError("layer: expected an unmerged layer, got a merged one")
    if isinstance(layer.base, QuantizedLinear):
        raise ValueError("base: expected a dense weight, got a 4-bit one: quantise the residual")
    check_own_weight(layer.base)
    if layer.b_OR.any():
        raise ValueError("layer: expected a new layer with B = 0, got one with an update")
    weight_OI = dense_weight(layer.base).to(wide_dtype(layer.base.weight.dtype))
    if not weight_OI.isfinite().all():
        raise ValueError("base: expected a finite weight, got NaN or infinity in it")
    u_OK, s_K, v_KI = torch.linalg.svd(weight_OI, full_matrices=False)
    root_R = (s_K[: layer.rank] / layer.scale).sqrt()
    layer.a_RI.copy_(root_R[:, None] * v_KI[: layer.rank])
    layer.b_OR.copy_(u_OK[:, : layer.rank] * root_R)
    residual_OI = weight_OI - lora_delta(layer.a_RI, layer.b_OR, scale=layer.scale)
    layer.set_base_weight(layer.in_base_layout(residual_OI).to(layer.base.weight.dtype))
    layer.init = "pissa"
