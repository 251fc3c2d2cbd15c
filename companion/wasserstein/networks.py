"""The two players of a Wasserstein GAN, as multilayer perceptrons.

Chapter: course/02_wasserstein.ipynb.  The generator is chapter 01's.
"""

from companion.gan.networks import Discriminator, Generator

__all__ = ["Critic", "Generator"]


class Critic(Discriminator):
    """A perceptron that gives every sample one score, any real number.

    Chapter 01's discriminator under its new name. There is no sigmoid, since a potential is not a
    probability, and no batch normalisation: the gradient penalty asks for the slope at each
    sample, which batch statistics would mix.

    Args:
        in_features: I, the number of values in one sample, over all its axes.
        width: Units in each hidden layer.
        depth: Number of hidden layers; 0 gives a linear critic.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size is less than 1 or ``depth`` is negative.

    Example:
        >>> import torch
        >>> critic = Critic(64, width=16, depth=2)
        >>> critic(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3])
    """
