"""Tiles of the photographs against slices of them."""

import pytest
import torch

from companion.data import photo_tiles, photos


@pytest.fixture(scope="module")
def pictures():
    return photos()


@pytest.mark.parametrize(("size", "shrink", "count"), [(32, 1, 3455), (32, 2, 825), (61, 3, None)])
def test_tiles_are_the_photographs_in_reading_order(size, shrink, count, pictures):
    """Each a slice, starting where the one before ends: none overlaps, and none is left out."""
    all_tiles = photo_tiles(size, shrink=shrink)
    assert all_tiles.dtype == torch.float32
    assert 0 <= all_tiles.min() < all_tiles.max() <= 1
    tiles = iter(all_tiles)
    found = 0
    for photo in pictures.values():
        rows, columns = (side // shrink // size for side in photo.shape[1:])
        for row in range(rows):
            for column in range(columns):
                top, left, side = row * size * shrink, column * size * shrink, size * shrink
                part = photo[:, top : top + side, left : left + side]
                blocks = part.unflatten(2, (size, shrink)).unflatten(1, (size, shrink))
                # One of shrink² terms at most 1 after the other, and a division.
                bound = (shrink**2 + 1) * 2**-23 if shrink > 1 else 0
                torch.testing.assert_close(next(tiles), blocks.mean((2, 4)), rtol=0, atol=bound)
                found += 1
    assert next(tiles, None) is None
    assert count in (found, None)


def test_photographs_that_are_too_small_are_passed_over(pictures):
    """Only hubble, 872 × 1000, holds 600 pixels, or 2 after shrinking by 301."""
    for arguments, side in (((600, 1), 600), ((2, 301), 602)):
        size, shrink = arguments  # sums of shrink² terms in float32
        (tile,) = photo_tiles(size, shrink=shrink)
        part = pictures["hubble"][:, :side, :side]
        blocks = part.unflatten(2, (size, shrink)).unflatten(1, (size, shrink))
        torch.testing.assert_close(tile, blocks.mean((2, 4)), rtol=shrink**2 * 2**-23, atol=0)


@pytest.mark.parametrize(
    ("size", "shrink", "error", "message"),
    [
        (0, 1, ValueError, "size must be at least 1, got 0"),
        (8, 0, ValueError, "shrink must be at least 1, got 0"),
        (1.5, 1, TypeError, "size: expected an integer, got 1.5"),
        (
            873,
            1,
            ValueError,
            "expected squares that fit into a photograph, got 873 after shrinking",
        ),
        (1, 2000, ValueError, "got 1 after shrinking by 2000"),
    ],
)
def test_sizes_that_do_not_fit(size, shrink, error, message):
    with pytest.raises(error, match=message):
        photo_tiles(size, shrink=shrink)
