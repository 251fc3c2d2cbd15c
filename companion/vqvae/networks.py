"""Encoder and decoder of a VQ-VAE: images to a grid of vectors, and back.

Chapter: course/03_vqvae.ipynb.
Dimension key: B batch, C channels, H W height and width, D coordinates of a code, h w the grid.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion.checks import check_count, typed

__all__ = ["Decoder", "Encoder"]

HALVES = {"kernel_size": 4, "stride": 2, "padding": 1}  # or doubles, transposed


class Encoder(nn.Module):
    """Images to a grid of vectors, each side 2^levels times shorter.

    ``levels`` convolutions halve the sides (a 3×3 convolution where there is no level), the
    residual blocks follow, and a 1×1 convolution gives D maps.

    Source: van den Oord et al. 2017, arXiv:1711.00937, §4.1 (two strided convolutions with
    kernels of 4, two residual blocks of 3×3 and 1×1 convolutions, all of one width).
    Differences: any number of levels and blocks; a block starts as the identity, its last weights
    being 0.

    Args:
        dim: D, the number of maps that come out.
        channels: C of the images.
        width: Maps of the layers between.
        levels: How many times the sides halve.
        residual_blocks: Number of them.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size is less than 1, or a count is negative.

    Example:
        >>> encoder = Encoder(5, channels=3, width=8, levels=2)
        >>> encoder(torch.zeros(2, 3, 32, 20)).shape
        torch.Size([2, 5, 8, 5])
    """

    @typed
    def __init__(
        self,
        dim: int,
        *,
        channels: int = 1,
        width: int = 64,
        levels: int = 2,
        residual_blocks: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(dim, channels, width, levels, residual_blocks)
        self.channels, self.stride = channels, 2**levels
        sizes = [channels, *[width] * levels]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.ReLU(), nn.utils.skip_init(nn.Conv2d, inputs, outputs, **HALVES)]
        layers = layers[1:] or [nn.utils.skip_init(nn.Conv2d, channels, width, 3, padding=1)]
        layers += [_ResidualBlock(width) for _ in range(residual_blocks)]
        layers += [nn.utils.skip_init(nn.Conv2d, width, dim, 1)]
        self.layers = nn.Sequential(*layers)
        _initialise(self.layers, generator)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The grid of vectors; the images' sides must be multiples of ``stride``."""
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[1] != self.channels:
            raise ValueError(f"images: expected shape (B, {self.channels}, H, W), got {shape}")
        if any(side == 0 or side % self.stride for side in shape[2:]):
            raise ValueError(
                f"images: expected sides that are multiples of {self.stride}, "
                f"got {shape[2]}×{shape[3]}"
            )
        return self.layers(images)


class Decoder(nn.Module):
    """A grid of vectors to images, each side 2^levels times longer: the encoder mirrored.

    Source, differences, arguments and errors: as for ``Encoder``.

    Example:
        >>> decoder = Decoder(5, channels=3, width=8, levels=2)
        >>> decoder(torch.zeros(2, 5, 8, 5)).shape
        torch.Size([2, 3, 32, 20])
    """

    @typed
    def __init__(
        self,
        dim: int,
        *,
        channels: int = 1,
        width: int = 64,
        levels: int = 2,
        residual_blocks: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(dim, channels, width, levels, residual_blocks)
        self.dim = dim
        sizes = [*[width] * levels, channels]
        layers: list[nn.Module] = [nn.utils.skip_init(nn.Conv2d, dim, width, 3, padding=1)]
        layers += [_ResidualBlock(width) for _ in range(residual_blocks)]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.utils.skip_init(nn.ConvTranspose2d, inputs, outputs, **HALVES), nn.ReLU()]
        if levels:
            layers = layers[:-1]
        else:
            layers += [nn.utils.skip_init(nn.Conv2d, width, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        _initialise(self.layers, generator)

    def forward(self, grid: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        """The images, without a squashing at the end: values may leave [0, 1]."""
        shape = tuple(grid.shape)
        if grid.ndim != 4 or shape[1] != self.dim or 0 in shape[2:]:
            raise ValueError(f"grid: expected shape (B, {self.dim}, h, w), got {shape}")
        return self.layers(grid)


class _ResidualBlock(nn.Module):
    """x + conv1×1(relu(conv3×3(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.utils.skip_init(nn.Conv2d, width, width, 3, padding=1),
            nn.ReLU(),
            nn.utils.skip_init(nn.Conv2d, width, width, 1),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.layers(x)


def _initialise(layers: nn.Module, generator: torch.Generator | None) -> None:
    """Weights that keep the mean square, no bias, and blocks that start as the identity.

    A transposed convolution quarters it: only a quarter of its kernel meets a pixel. Images that
    start faint were learned faster, on the photographs and on the digits, than those that do not.
    """
    before = None
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            gain = 2 if isinstance(before, nn.ReLU) else 1  # a ReLU halves the mean square
            std = math.sqrt(gain / (layer.in_channels * math.prod(layer.kernel_size)))
            nn.init.normal_(layer.weight, std=std, generator=generator)
            nn.init.zeros_(layer.bias)
        before = layer
    for block in layers.modules():
        if isinstance(block, _ResidualBlock):
            nn.init.zeros_(block.layers[-1].weight)


def _check_sizes(dim: int, channels: int, width: int, levels: int, residual_blocks: int) -> None:
    check_count("dim", dim)
    check_count("channels", channels)
    check_count("width", width)
    check_count("levels", levels, least=0)
    check_count("residual_blocks", residual_blocks, least=0)
