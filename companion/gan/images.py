"""The two players of a game on images: DCGAN's networks, with or without labels.

Chapter: course/01_gan.ipynb.
Dimension key: B batch, C channels, H W height and width, K classes, Z latents.
"""

import itertools
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from companion.checks import check_count, typed

__all__ = ["ImageDiscriminator", "ImageGenerator"]

INITIAL_STD = 0.02
KERNEL = {"kernel_size": 4, "stride": 2, "padding": 1}  # halves or doubles height and width


class ImageGenerator(nn.Module):
    """DCGAN's generator: noise, or noise and a label, becomes a square image in [−1, 1].

    A linear layer gives width·2^(levels−1) maps of size/2^levels; each level doubles their size
    and halves their number. Batch normalisation and ReLU follow all layers but the last, which
    has tanh. A label enters as K numbers, one of them 1, behind the noise.

    Source: Radford et al. 2015, arXiv:1511.06434, §3; the label as in Mirza & Osindero 2014,
    arXiv:1411.1784, §3.2. Weights are drawn from N(0, 0.02²) (§4 of the former), normalisations'
    scales from N(1, 0.02²) (its code). Differences: kernels of 4 in place of 5, whose windows
    overlap evenly at stride 2; images and networks of any size, theirs have 64×64 pixels.

    In training mode a sample depends on its batch, through the batch's statistics; after
    ``eval()`` on its own noise alone.

    Args:
        latent_features: Z, the number of noise values behind one image.
        channels: C of the images.
        size: H = W of the images, a multiple of 2^levels.
        width: Maps before the last layer.
        levels: How many times the size doubles.
        num_classes: K for the conditional game; None has no labels.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size is less than 1, or ``size`` no multiple of 2^levels.

    Example:
        >>> generator = ImageGenerator(16, num_classes=10)
        >>> generator(torch.randn(3, 16), torch.tensor([7, 7, 1])).shape
        torch.Size([3, 1, 8, 8])
    """

    @typed
    def __init__(
        self,
        latent_features: int,
        *,
        channels: int = 1,
        size: int = 8,
        width: int = 32,
        levels: int = 2,
        num_classes: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("latent_features", latent_features)
        smallest = _check_image(channels, size, width, levels, num_classes)
        self.latent_features, self.num_classes = latent_features, num_classes
        maps = [width * 2**level for level in reversed(range(levels))]
        # No bias before a normalisation, which would subtract it again.
        inputs, outputs = latent_features + (num_classes or 0), maps[0] * smallest**2
        layers = [
            nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False),
            nn.Unflatten(1, (maps[0], smallest, smallest)),
        ]
        for wide, narrow in itertools.pairwise([*maps, channels]):
            bias = wide == maps[-1]  # the last layer's: no normalisation follows
            conv = nn.utils.skip_init(nn.ConvTranspose2d, wide, narrow, **KERNEL, bias=bias)
            layers += [nn.BatchNorm2d(wide), nn.ReLU(), conv]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        _initialise(self.layers, generator)

    def forward(
        self, noise: Float[Tensor, "B Z"], labels: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """One image per row of noise; labels, 0 … K−1, for the conditional game alone."""
        if noise.ndim != 2 or noise.shape[1] != self.latent_features:
            raise ValueError(
                f"noise: expected shape (B, {self.latent_features}), got {tuple(noise.shape)}"
            )
        one_hot_BK = _one_hot(labels, self.num_classes, like=noise)
        return self.layers(torch.cat([noise, one_hot_BK], dim=1))


class ImageDiscriminator(nn.Module):
    """DCGAN's discriminator: a square image, or an image and a label, becomes one logit.

    Each level halves the size and doubles the number of maps, from ``width`` on; LeakyReLU with
    slope 0.2 follows it, and all maps go into one linear layer. Batch normalisation stands before
    the LeakyReLU in all levels but the first. A label enters as K more channels, one of them
    constantly 1, the others 0.

    Source: Radford et al. 2015, arXiv:1511.06434, §3; labels, weights and differences as in
    ``ImageGenerator``.

    Args:
        channels: C of the images.
        size: H = W of the images, a multiple of 2^levels.
        width: Maps after the first layer.
        levels: How many times the size halves.
        num_classes: K for the conditional game; None has no labels.
        batch_norm: False leaves the normalisation out, as ``r1_penalty`` needs: with it each
            logit depends on the whole batch, and no sample has a gradient of its own.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size is less than 1, or ``size`` no multiple of 2^levels.

    Example:
        >>> discriminator = ImageDiscriminator(channels=3, size=16)
        >>> discriminator(torch.zeros(5, 3, 16, 16)).shape
        torch.Size([5])
    """

    @typed
    def __init__(
        self,
        *,
        channels: int = 1,
        size: int = 8,
        width: int = 32,
        levels: int = 2,
        num_classes: int | None = None,
        batch_norm: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        smallest = _check_image(channels, size, width, levels, num_classes)
        self.shape, self.num_classes = (channels, size, size), num_classes
        layers: list[nn.Module] = []
        inputs = channels + (num_classes or 0)
        for maps in (width * 2**level for level in range(levels)):
            norm = [nn.BatchNorm2d(maps)] if batch_norm and layers else []
            conv = nn.utils.skip_init(nn.Conv2d, inputs, maps, **KERNEL, bias=not norm)
            layers += [conv, *norm, nn.LeakyReLU(0.2)]
            inputs = maps
        logit = nn.utils.skip_init(nn.Linear, inputs * smallest**2, 1)
        self.layers = nn.Sequential(*layers, nn.Flatten(), logit)
        _initialise(self.layers, generator)

    def forward(
        self, x: Float[Tensor, "B C H W"], labels: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """One logit per image; labels, 0 … K−1, for the conditional game alone."""
        if x.ndim != 4 or x.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"x: expected shape (B, {expected}), got {tuple(x.shape)}")
        one_hot_BK = _one_hot(labels, self.num_classes, like=x)
        maps_BKHW = one_hot_BK[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.layers(torch.cat([x, maps_BKHW], dim=1)).squeeze(1)


def _check_image(channels: int, size: int, width: int, levels: int, classes: int | None) -> int:
    """Raises unless the sizes fit; height of the smallest maps."""
    counts = {"channels": channels, "size": size, "width": width, "levels": levels}
    for name, value in (counts | ({} if classes is None else {"num_classes": classes})).items():
        check_count(name, value)
    if size % 2**levels:
        raise ValueError(f"size must be a multiple of {2**levels} = 2^levels, got {size}")
    return size // 2**levels


def _one_hot(labels: Tensor | None, classes: int | None, *, like: Tensor) -> Float[Tensor, "B K"]:
    """Labels as rows of K numbers, one of them 1; no columns in the game without labels."""
    if classes is None:
        if labels is not None:
            raise ValueError("labels: expected none without num_classes, got some")
        return like.new_zeros(len(like), 0)
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: expected a tensor of integers, got {got}")
    if labels.shape != like.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(like)},), got {tuple(labels.shape)}")
    if ((labels < 0) | (labels >= classes)).any():
        low, high = labels.min().item(), labels.max().item()
        raise ValueError(f"labels must be in [0, {classes - 1}], got {low} to {high}")
    return F.one_hot(labels.long(), classes).to(like)


def _initialise(layers: Iterable[nn.Module], generator: torch.Generator | None) -> None:
    for layer in layers:
        if not list(layer.parameters()):
            continue
        mean = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
        nn.init.normal_(layer.weight, mean, INITIAL_STD, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
