"""Small squares cut out of the photographs."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from companion.checks import check_count
from companion.data.photographs import photos

__all__ = ["photo_tiles"]


def photo_tiles(size: int = 32, *, shrink: int = 1) -> Float[Tensor, "N 3 size size"]:
    """The photographs cut into squares that do not overlap, photo by photo in reading order.

    What is left over at the right and at the bottom is dropped. Origin and licence: ``photos``.

    Args:
        size: Height and width of a square, in pixels.
        shrink: Each photograph is first made this many times smaller, by averages of
            shrink × shrink pixels, so that a square holds more of it.

    Returns:
        float32 ``[N, 3, size, size]`` in [0, 1]; N = 3455 for 32 pixels, 825 with ``shrink=2``.

    Raises:
        ValueError: If ``size`` or ``shrink`` is less than 1, or no photograph holds a square.

    Example:
        >>> photo_tiles(64).shape[1:]
        torch.Size([3, 64, 64])
    """
    check_count("size", size)
    check_count("shrink", shrink)
    tiles = []
    for photo in photos().values():
        if min(photo.shape[1:]) < shrink * size:
            continue
        small = F.avg_pool2d(photo, shrink)
        rows, columns = small.shape[1] // size, small.shape[2] // size
        grid = small[:, : rows * size, : columns * size].reshape(3, rows, size, columns, size)
        tiles.append(grid.permute(1, 3, 0, 2, 4).flatten(0, 1))
    if not tiles:
        got = f"{size} after shrinking by {shrink}"
        raise ValueError(f"size: expected squares that fit into a photograph, got {got}")
    return torch.cat(tiles)
