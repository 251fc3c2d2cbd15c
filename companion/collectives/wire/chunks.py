"""How a tensor is cut: into P chunks, one per rank, and each chunk into segments.

    chunk r = torch.tensor_split(flat, P)[r]: the first S mod P chunks are one element longer

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

from torch import Tensor

__all__ = ["segments"]


def segments(chunks: list[Tensor], *, segment_bytes: int) -> list[list[Tensor]]:
    """Cut every chunk into the same number of pieces of about ``segment_bytes`` at most.

    Equal numbers, so that step t's piece s travels on as step t+1's piece s; some may be empty.

    Args:
        chunks: Contiguous 1-D tensors.
        segment_bytes: >= 1.

    Returns:
        One list of pieces per chunk; all lists are equally long, and not empty.

    Example:
        >>> import torch
        >>> cut = segments([torch.arange(5), torch.arange(4)], segment_bytes=16)
        >>> [[len(piece) for piece in pieces] for pieces in cut]
        [[2, 2, 1], [2, 1, 1]]
    """
    largest = max(chunk.numel() * chunk.element_size() for chunk in chunks)
    count = max(1, -(-largest // segment_bytes))
    return [list(chunk.tensor_split(count)) for chunk in chunks]
