"""Lloyd's k-means, over the vectors of all ranks.

Chapter: course/03_vqvae.ipynb.  Dimension key: B vectors of this rank, K centres, D width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_count, typed
from companion.vqvae.all_ranks import draw_vectors, sums_and_counts
from companion.vqvae.nearest import nearest_code

__all__ = ["Clusters", "kmeans", "lloyd"]


class Clusters(NamedTuple):
    """Centres, and how many vectors each is the mean of."""

    centres: Float[Tensor, "K D"]
    counts: Float[Tensor, " K"]


@typed
@torch.no_grad()
def kmeans(
    vectors: Float[Tensor, "B D"],
    num_codes: int,
    *,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> Clusters:
    """Lloyd's iterations from K of the vectors, drawn without repeats while there are enough.

    Not k-means++, whose K draws, each from what the last one left, would be K messages between
    ranks. Fewer vectors than K: some centres start alike, and the later of them get no vector.

    Args:
        vectors: B vectors, at least one over all ranks with finite coordinates.
        num_codes: K.
        iterations: How often every centre becomes the mean of its vectors.
        generator: Source of the draws; rank 0's counts.

    Returns:
        The centres and the counts behind the last means, in float32 at least.

    Raises:
        ValueError: If there is no finite vector, or a count is less than 1.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
        >>> kmeans(x, 2, generator=torch.Generator().manual_seed(0)).centres.sort(0).values.T
        tensor([[ 0.5000, 11.0000]])
    """
    check_count("num_codes", num_codes)
    check_count("iterations", iterations)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ValueError(f"vectors: expected shape (B, D), got {tuple(vectors.shape)}")
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    start = draw_vectors(vectors, num_codes, generator)
    if len(start) == 0:
        raise ValueError(f"vectors: expected a finite one, got {len(vectors)} without any")
    return lloyd(vectors, start, iterations=iterations)


@torch.no_grad()
def lloyd(
    vectors: Float[Tensor, "B D"], centres: Float[Tensor, "K D"], *, iterations: int
) -> Clusters:
    """Every centre becomes the mean of the vectors nearest to it, again and again.

    A centre without a vector stays where it is, with a count of 0.

    Source: Lloyd 1982, "Least squares quantization in PCM", method I.
    """
    counts = centres.new_zeros(len(centres))
    for _ in range(iterations):
        sums, counts = sums_and_counts(vectors, nearest_code(vectors, centres), len(centres))
        means = sums / counts.clamp(min=1)[:, None]
        centres = torch.where(counts[:, None] > 0, means, centres)
    return Clusters(centres, counts)
