"""Four-bit NormalFloat (NF4): weights stored as 16 quantiles of the normal distribution.

    ŵ = absmax(block) · code[k],    k = argmin_k | w / absmax(block) − code[k] |

Source: Dettmers et al. 2023 (QLoRA), arXiv:2305.14314, §3 and appendix E; the 8-bit code of the
scales is Dettmers 2016, arXiv:1511.04561, §2.1. Codes and layout (the first weight in a byte's high
half) are those of bitsandbytes.
Chapter: course/07_lora.ipynb.  Dimension key: N weights, K codes, M blocks, G groups of blocks.
"""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from companion.checks import typed

__all__ = [
    "QuantizedWeight",
    "dynamic_code",
    "nearest_codes",
    "nearest_codes_naive",
    "nf4_code",
    "nf4_quantize",
]

# 1 − (1/32 + 1/30) / 2, with the digits of the published table: half a bin of mass 1/16 or 1/15.
OUTERMOST_LEVEL = 0.9677083
GROUP = 256  # blocks that share one second-level scale
_CACHED = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are at the first call


def nf4_code(*, device: torch.device | str | None = None) -> Float[Tensor, "16"]:
    """The 16 values of NF4: quantiles of the normal distribution, scaled to [−1, 1].

        eight equal steps of probability above the median, seven below it, and an exact zero

    The quantile function is infinite at 1, so the steps start at 1 − ½(1/32 + 1/30). A symmetric
    code would spend two of its 16 values on ±0; this one has one positive value more.

    Source: Dettmers et al. 2023, arXiv:2305.14314, §3 and appendix E (the same float32 values).

    Example:
        >>> nf4_code()[[0, 1, 7, 8, 15]]
        tensor([-1.0000, -0.6962,  0.0000,  0.0796,  1.0000])
    """
    return _nf4_code().to(device, copy=True)


def dynamic_code(*, device: torch.device | str | None = None) -> Float[Tensor, "256"]:
    """The 256 values of the signed dynamic 8-bit code, from −0.993 to 1.

        ± 10^(e−6) · (midpoints of 2^e equal parts of [0.1, 1]),  e = 0 … 6,  and 0 and 1

    Ten times finer steps for ten times smaller numbers; the steps of the largest decade are 0.0141.

    Source: Dettmers 2016, arXiv:1511.04561, §2.1, without its bit pattern: an index is a rank.

    Example:
        >>> dynamic_code()[[0, 127, 128, 254, 255]]
        tensor([-9.9297e-01,  0.0000e+00,  5.5000e-07,  9.9297e-01,  1.0000e+00])
    """
    return _dynamic_code().to(device, copy=True)


def nearest_codes(
    values: Float[Tensor, "*shape"], code: Float[Tensor, "K"]
) -> UInt8[Tensor, "*shape"]:
    """Index of the code nearest to each value, by bisection among the K − 1 midpoints.

    O(log K) comparisons and no temporary of K values each. A value halfway goes to the lower code.

    Args:
        values: Finite numbers, usually in [−1, 1].
        code: At most 256 values, ascending.

    Raises:
        ValueError: If the code does not ascend, or has more than 256 values.

    Example:
        >>> code = torch.tensor([-1.0, 0.0, 0.5, 1.0])
        >>> nearest_codes(torch.tensor([-0.9, 0.24, 0.26, 5.0]), code)
        tensor([0, 1, 2, 3], dtype=torch.uint8)
    """
    if not 1 <= len(code) <= 256 or (code.diff() <= 0).any():
        raise ValueError(f"code: expected at most 256 ascending values, got {code.tolist()}")
    midpoints = (code[:-1] + code[1:]) / 2
    return torch.bucketize(values.contiguous(), midpoints, out_int32=True).to(torch.uint8)


def nearest_codes_naive(
    values: Float[Tensor, "*shape"], code: Float[Tensor, "K"]
) -> UInt8[Tensor, "*shape"]:
    """The same by definition: ``argmin |value − code|``, with K distances for each value."""
    return (values[..., None] - code).abs().argmin(-1).to(torch.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A tensor in NF4: two codes in a byte, one scale for each block.

    Fields:
        packed: Codes of the flattened tensor, the first of each two in the high four bits.
        scales: Largest magnitude of each block, in float32; 8-bit codes if quantised doubly.
        group_scales: If quantised doubly, the float32 scale of each 256 scales; else None.
        mean_scale: If quantised doubly, the mean that was taken from the scales; else None.
        byte_values: The two float32 values of each possible byte, in the eight bytes of an integer,
            so that one look-up fetches both.
        scale_code: If quantised doubly, the 256 values of the scales' code; else None.
        shape, dtype: Of the tensor that was quantised.
        block: Weights in a block; the last block may be shorter.
    """

    packed: UInt8[Tensor, "half_N"]
    scales: Float[Tensor, "M"] | UInt8[Tensor, "M"]
    group_scales: Float[Tensor, "G"] | None
    mean_scale: Float[Tensor, ""] | None
    byte_values: Int64[Tensor, "256"]
    scale_code: Float[Tensor, "256"] | None
    shape: torch.Size
    dtype: torch.dtype
    block: int

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.packed.device

    @property
    def bytes(self) -> int:
        """Bytes of the codes and of both levels of scales; not of the two constant tables."""
        tensors = (self.packed, self.scales, self.group_scales, self.mean_scale)
        return sum(t.nbytes for t in tensors if t is not None)

    @property
    def bits_per_parameter(self) -> float:
        """4 + 32/64 = 4.5 bits with blocks of 64; 4 + 8/64 + 32/(64·256) = 4.127 when doubled."""
        return 8 * self.bytes / self.shape.numel()

    def absmax(self) -> Float[Tensor, "M"]:
        """The scale of each block in float32, decoded if need be."""
        if self.group_scales is None:
            return self.scales
        scales = self.scale_code[self.scales.int()]
        scales = _scale_blocks_(scales, self.group_scales, GROUP)
        # A scale far below the mean may decode to less than 0, which would flip its block's signs.
        return (scales + self.mean_scale).clamp(0, torch.finfo(torch.float32).max)

    def dequantize(self, dtype: torch.dtype | None = None) -> Float[Tensor, "*shape"]:
        """The weights again, rounded once from float32 to ``dtype`` (default: their own)."""
        pairs = self.byte_values.index_select(0, self.packed.int())
        values = pairs.view(torch.float32)[: self.shape.numel()]
        values = _scale_blocks_(values, self.absmax(), self.block)
        return values.reshape(self.shape).to(dtype or self.dtype)


@typed
@torch.no_grad()
def nf4_quantize(
    weight: Float[Tensor, "*shape"], *, block: int = 64, double: bool = True
) -> QuantizedWeight:
    """A tensor of any shape, flattened and stored in four bits a weight and a scale a block.

        |ŵ − w| ≤ 0.152 · absmax(block),   0.152 = (1 − 0.696) / 2, half the code's widest gap

    With ``double`` the scales are stored too: minus their mean, in blocks of 256, each in the 8-bit
    dynamic code. That adds at most 0.00703 times the largest of |absmax − mean| in the 256.

    Source: Dettmers et al. 2023, arXiv:2305.14314, §3. Difference from bitsandbytes: a scale that
    decodes to less than 0 is 0.

    Args:
        weight: Finite floating-point numbers; float64 is rounded to float32 first.
        block: Weights that share a scale, at least 1.
        double: Whether the scales are quantised as well: 4.127 bits a weight, not 4.5.

    Returns:
        Codes and scales on the weight's device.

    Raises:
        TypeError: If the weight is not floating point, or ``block`` no integer.
        ValueError: If it is empty, on the meta device or not finite, or ``block`` is less than 1.

    Example:
        >>> quantized = nf4_quantize(torch.tensor([[0.0, 8.0, -4.0, 2.0]]), double=False)
        >>> quantized.dequantize()
        tensor([[ 0.0000,  8.0000, -4.2006,  1.9689]])
        >>> quantized.packed  # code 7 is 0, code 15 is 1
        tensor([127,  42], dtype=torch.uint8)
    """
    _check(weight, block)
    scaled, scales = _divide_blocks(weight.flatten().float(), block)
    code = nf4_code(device=weight.device)
    codes = nearest_codes(scaled, code)
    if len(codes) % 2:
        codes = F.pad(codes, (0, 1), value=7)  # a weight of 0
    packed = codes[0::2] << 4 | codes[1::2]
    group_scales = mean_scale = scale_code = None
    if double:
        scale_code = dynamic_code(device=weight.device)
        mean_scale = scales.mean()
        if not mean_scale.isfinite():  # the sum has left float32's range
            mean_scale = (scales / len(scales)).sum()
        scaled, group_scales = _divide_blocks(scales - mean_scale, GROUP)
        scales = nearest_codes(scaled, scale_code)
    return QuantizedWeight(
        packed=packed,
        scales=scales,
        group_scales=group_scales,
        mean_scale=mean_scale,
        byte_values=_byte_values(code),
        scale_code=scale_code,
        shape=weight.shape,
        dtype=weight.dtype,
        block=block,
    )


def _byte_values(code: Float[Tensor, "16"]) -> Int64[Tensor, "256"]:
    byte = torch.arange(256, device=code.device)
    return torch.stack([code[byte >> 4], code[byte & 15]], -1).view(torch.int64)[:, 0]


def _divide_blocks(values: Float[Tensor, "N"], block: int) -> tuple[Tensor, Tensor]:
    """Each value over the largest magnitude of its block, and those magnitudes."""
    rows = _blocks(values, block)
    absmax = rows.abs().amax(1)
    scaled = rows / absmax.masked_fill(absmax == 0, 1)[:, None]
    return scaled.flatten()[: len(values)], absmax


def _scale_blocks_(values: Float[Tensor, "N"], absmax: Float[Tensor, "M"], block: int) -> Tensor:
    """Each value times the number of its block; overwrites the values."""
    return _blocks(values, block).mul_(absmax[:, None]).flatten()[: len(values)]


def _blocks(values: Float[Tensor, "N"], block: int) -> Float[Tensor, "M block"]:
    """The values in rows of one block, the last of several filled up with zeros."""
    block = min(block, len(values))
    missing = -len(values) % block
    return (F.pad(values, (0, missing)) if missing else values).view(-1, block)


def _check(weight: Tensor, block: int) -> None:
    if not weight.is_floating_point():
        raise TypeError(f"weight: expected floating-point numbers, got {weight.dtype}")
    if isinstance(block, bool) or not isinstance(block, int):
        raise TypeError(f"block: expected an integer, got {block!r}")
    if block < 1:
        raise ValueError(f"block: expected at least 1, got {block}")
    if weight.is_meta:
        raise ValueError("weight: expected numbers, got a tensor on the meta device")
    if weight.numel() == 0:
        raise ValueError(f"weight: expected at least one number, got shape {tuple(weight.shape)}")
    if not weight.float().isfinite().all():
        raise ValueError("weight: expected finite float32 numbers, got NaN or infinity")


@functools.cache
def _nf4_code() -> Float[Tensor, "16"]:
    # Levels and division in float32, as the published values were made: equal to the last bit.
    above = torch.linspace(OUTERMOST_LEVEL, 0.5, 9, **_CACHED)[:-1].double()
    below = 1 - torch.linspace(OUTERMOST_LEVEL, 0.5, 8, **_CACHED)[:-1].double()
    quantiles = torch.special.ndtri(torch.cat([above, above.new_tensor([0.5]), below]))
    quantiles = quantiles.float().sort().values
    return quantiles / quantiles.max()


@functools.cache
def _dynamic_code() -> Float[Tensor, "256"]:
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, **_CACHED)
        midpoints = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)).tolist()
        values += midpoints + [-m for m in midpoints]
    return torch.tensor(values, **_CACHED).sort().values
