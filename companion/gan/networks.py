"""The two players of a game in the plane, as multilayer perceptrons.

Chapter: course/01_gan.ipynb.  Dimension key: B batch, I inputs, O outputs, Z latents.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion.checks import check_count, typed

__all__ = ["Discriminator", "Generator"]


def _perceptron(
    sizes: list[int], activation: type[nn.Module], generator: torch.Generator | None
) -> nn.Sequential:
    """Linear layers of the given sizes with the activation between them; He's initialisation."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        # Uninitialised, since nn.Linear would draw from PyTorch's global generator.
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        # He et al. 2015: variance 2/I keeps the scale of the activations through a ReLU.
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


class Discriminator(nn.Module):
    """A perceptron that gives every sample one logit: high where it takes the sample for real.

    There is no sigmoid: the losses take logits, since log σ(l) is exact where log of σ(l) is −∞.

    Args:
        in_features: I, the number of values in one sample, over all its axes.
        width: Units in each hidden layer.
        depth: Number of hidden layers; 0 gives a linear discriminator.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size is less than 1 or ``depth`` is negative.

    Example:
        >>> discriminator = Discriminator(2, width=16, depth=2)
        >>> discriminator(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    @typed
    def __init__(
        self,
        in_features: int,
        *,
        width: int,
        depth: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(in_features=in_features, width=width, depth=depth)
        self.in_features = in_features
        self.layers = _perceptron([in_features, *[width] * depth, 1], nn.ReLU, generator)

    def forward(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, " B"]:
        """One number for every sample; the axes after the first are flattened."""
        if x.ndim < 2 or x[:1].numel() != self.in_features * len(x[:1]):
            raise ValueError(
                f"x: expected samples of {self.in_features} numbers, got shape {tuple(x.shape)}"
            )
        return self.layers(x.flatten(1)).squeeze(1)


class Generator(nn.Module):
    """A perceptron that turns Gaussian noise into samples.

    Args:
        latent_features: Z, the number of noise values behind one sample.
        out_features: O, the number of values in one sample, or the sample's shape, as (1, 8, 8).
        width: Units in each hidden layer.
        depth: Number of hidden layers.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size is less than 1 or ``depth`` is negative.

    Example:
        >>> generator = Generator(4, (1, 8, 8), width=16, depth=2)
        >>> generator(torch.zeros(3, 4)).shape
        torch.Size([3, 1, 8, 8])
    """

    @typed
    def __init__(
        self,
        latent_features: int,
        out_features: int | tuple[int, ...],
        *,
        width: int,
        depth: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.out_shape = (out_features,) if isinstance(out_features, int) else tuple(out_features)
        outputs = math.prod(self.out_shape)
        _check_sizes(
            latent_features=latent_features, out_features=outputs, width=width, depth=depth
        )
        self.latent_features = latent_features
        self.layers = _perceptron([latent_features, *[width] * depth, outputs], nn.ReLU, generator)

    def forward(self, noise: Float[Tensor, "B Z"]) -> Float[Tensor, "B *shape"]:
        """One sample per row of noise."""
        if noise.ndim != 2 or noise.shape[1] != self.latent_features:
            raise ValueError(
                f"noise: expected shape (B, {self.latent_features}), got {tuple(noise.shape)}"
            )
        return self.layers(noise).unflatten(1, self.out_shape)


def _check_sizes(*, depth: int, **sizes: int) -> None:
    check_count("depth", depth, least=0)
    for name, size in sizes.items():
        check_count(name, size)
