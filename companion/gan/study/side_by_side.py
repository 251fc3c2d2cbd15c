"""Several games at once: perceptrons of one shape, each on its own samples, in batched products.

A small network leaves a processor idle between its many short calls. Five of them stacked take
hardly longer than one, so a claim about training can be checked on several random starts.

Chapter: course/01_gan.ipynb.  Dimension key: B batch, E games, I inputs, O outputs, Z latents.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion.gan.networks import Discriminator, Generator

__all__ = ["SideBySide"]


class SideBySide(nn.Module):
    """E perceptrons of one shape as one: column e of the input goes through network e.

    Trained on the mean of a loss over all columns, each network follows its own gradient divided
    by E, and Adam's step does not depend on that factor. A penalty that is summed over the
    columns, as R1's squared norm is, needs its weight divided by E.

    Args:
        networks: At least one; all generators or all discriminators. Their weights are copied.

    Raises:
        ValueError: If there is no network.

    Example:
        >>> pair = SideBySide([Discriminator(2, width=4, depth=1) for _ in range(2)])
        >>> pair(torch.zeros(5, 2, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, networks: Sequence[Generator] | Sequence[Discriminator]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("networks: expected at least one, got none")
        self.games = len(networks)
        linear_layers = zip(*(_linear(network) for network in networks), strict=True)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layers in linear_layers:
            self.weights.append(torch.stack([layer.weight.detach().mT for layer in layers]))
            self.biases.append(torch.stack([layer.bias.detach()[None] for layer in layers]))
        self.is_generator = isinstance(networks[0], Generator)
        if self.is_generator:
            self.latent_features = self.games * networks[0].latent_features

    def forward(self, x: Float[Tensor, "B E I"]) -> Float[Tensor, "B E *O"]:
        """Column e of the result is network e's answer to column e; a logit has no axis O.

        Generators take the noise of all games in one row, shape (B, E·Z), as a training loop
        draws it.
        """
        if self.is_generator:
            x = x.unflatten(1, (self.games, -1))
        h_EBI = x.transpose(0, 1)
        for layer, (weight_EIO, bias_E1O) in enumerate(zip(self.weights, self.biases, strict=True)):
            h_EBI = torch.baddbmm(bias_E1O, h_EBI.relu() if layer else h_EBI, weight_EIO)
        result_BEO = h_EBI.transpose(0, 1)
        return result_BEO if self.is_generator else result_BEO.squeeze(2)


def _linear(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.layers if isinstance(layer, nn.Linear)]
