"""The nearest code of each vector, without a matrix of distances that is kept whole.

    argmin_k ‖z − e_k‖² = argmin_k ‖e_k‖² − 2 z·e_k,    as ‖z‖² is the same for every code

Source: van den Oord et al. 2017, arXiv:1711.00937, §3.1, eq. 1.
Chapter: course/03_vqvae.ipynb.  Dimension key: N vectors, K codes, D width of a code.
"""

import functools
import importlib.util

import torch
from jaxtyping import Float, Int
from torch import Tensor

from companion.checks import typed

__all__ = ["nearest_code", "squared_distances"]

# Scores that are looked at once should still be in the processor's cache. On an accelerator,
# where this path serves float64 and machines without Triton, short steps would cost more.
CPU_BYTES, OTHER_BYTES = 2**22, 2**26


@typed
def nearest_code(z: Float[Tensor, "*b D"], codebook: Float[Tensor, "K D"]) -> Int[Tensor, "*b"]:
    """Index of the code with the least squared distance; of equal ones, the lowest.

        index = argmin_k ‖e_k − c‖² − 2 (z − c)·(e_k − c)

    Any c gives the same argmin. Far from the origin the two terms are large and nearly cancel, so
    that float32 loses the small difference between codes; c near their mean prevents it.

    Source: van den Oord et al. 2017, arXiv:1711.00937, §3.1, eq. 1.

    Computed in float32 at least, also under ``torch.autocast``; no gradient. Rounding may decide
    between codes whose distances differ by less than a few D·ε times the squared size of z − c and
    of the codebook around c; even between two copies of a code, whose scores BLAS may round in two
    ways. On the CPU 4 MiB of scores exist at a time (more only for K above 65,536: 16 rows); on
    CUDA none outside of the Triton kernel, which takes all but float64.

    Args:
        z: Vectors, of any leading shape, also an empty one.
        codebook: One code per row; the dtype and device of z. Its numbers, and the squares of
            their differences, must be finite; this is not checked, as it would stall a GPU.

    Returns:
        int64, on the device of z. A vector with a NaN gets 0.

    Raises:
        TypeError: Not a tensor of floating-point numbers, or two dtypes.
        ValueError: An empty codebook, widths that differ, or two devices.

    Example:
        >>> nearest_code(torch.tensor([[0.9], [-3.0], [0.5]]), torch.tensor([[0.0], [1.0]]))
        tensor([1, 0, 0])
    """
    _check(z, codebook)
    search = _search_chunks
    if _uses_triton(z.device.type, z.dtype):
        from companion.vqvae.triton.launch import triton_nearest_code as search
    with torch.no_grad():
        codes = codebook.to(torch.promote_types(codebook.dtype, torch.float32))
        centre = _centre(codes)
        codes = codes - centre
        rows = z.reshape(z.shape[:-1].numel(), z.shape[-1])
        return search(rows, centre, codes, codes.square().sum(1)).view(z.shape[:-1])


@typed
def squared_distances(
    z: Float[Tensor, "*b D"], codebook: Float[Tensor, "K D"]
) -> Float[Tensor, "*b K"]:
    """‖z − e_k‖² of each vector to each code, by the definition.

    The reference for ``nearest_code``: it keeps all N·K·D differences, in float32 at least, and
    is differentiable.

    Args, Raises: As for ``nearest_code``.

    Example:
        >>> squared_distances(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0], [4.0, 6.0]]))
        tensor([ 4., 25.])
    """
    _check(z, codebook)
    wide = torch.promote_types(z.dtype, torch.float32)
    return (z.to(wide)[..., None, :] - codebook.to(wide)).square().sum(-1)


def _search_chunks(
    z: Float[Tensor, "N D"],
    centre: Float[Tensor, "D"],
    codes: Float[Tensor, "K D"],
    norms: Float[Tensor, "K"],
) -> Int[Tensor, "N"]:
    """Rows of z in steps, into one buffer of scores; ``argmin`` takes the first of equal ones.

    With ``out=`` autocast leaves a product alone; it would round both factors to 8 or 11 bits.
    """
    limit = CPU_BYTES if z.device.type == "cpu" else OTHER_BYTES
    step = max(16, limit // (codes.element_size() * len(codes)))
    buffer = codes.new_empty(min(step, len(z)), len(codes))
    indices = torch.empty(len(z), dtype=torch.int64, device=z.device)
    for first in range(0, len(z), step):
        part = z[first : first + step] - centre
        scores = torch.addmm(norms, part, codes.T, alpha=-2, out=buffer[: len(part)])
        torch.argmin(scores, dim=1, out=indices[first : first + step])
    return indices


def _centre(codes: Float[Tensor, "K D"]) -> Float[Tensor, "D"]:
    """The codes' mean, on a grid no finer than their spread.

    So it is 0 for codes around the origin, and taking it away from numbers with few digits is
    exact: what ties by hand still ties.
    """
    mean = codes.mean(0)
    spread = (codes - mean).abs().max()
    mantissa, _ = torch.frexp(spread)
    step = spread / mantissa  # the power of two above the spread; NaN if all codes are equal
    return torch.where(spread > 0, (mean / step).round() * step, mean)


@functools.cache
def _uses_triton(device_type: str, dtype: torch.dtype) -> bool:
    found = importlib.util.find_spec("triton") is not None
    return device_type == "cuda" and dtype != torch.float64 and found


def _check(z: Tensor, codebook: Tensor) -> None:
    if codebook.ndim != 2 or 0 in codebook.shape:
        got = tuple(codebook.shape)
        raise ValueError(f"codebook must have the shape (K, D), both at least 1, got {got}")
    if z.ndim == 0 or z.shape[-1] != codebook.shape[1]:
        expected, got = codebook.shape[1], tuple(z.shape)
        raise ValueError(f"z must have the codes' width, {expected}, as last dimension, got {got}")
    if z.dtype != codebook.dtype:
        raise TypeError(f"codebook: expected z's dtype, {z.dtype}, got {codebook.dtype}")
    if z.device != codebook.device:
        raise ValueError(f"codebook: expected z's device, {z.device}, got {codebook.device}")
