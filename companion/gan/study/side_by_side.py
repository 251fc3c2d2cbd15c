"""Several games at once: networks of one shape, each on its own samples, in one batched product.

A small network leaves a processor idle between its many short calls. Eight of them stacked take
hardly longer than one, so a claim about training can be checked on several random starts.

Chapter: course/01_gan.ipynb.  Dimension key: B batch, E games, Z latents.
"""

import copy
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

__all__ = ["SideBySide"]


class SideBySide(nn.Module):
    """E networks of one shape as one: column e of the input goes through network e.

    Trained on the mean of a loss over all columns, each network follows its own gradient divided
    by E, and Adam's step does not depend on that factor. A penalty that is summed over the
    columns, as R1's squared norm is, needs its weight divided by E.

    Args:
        networks: At least one, without buffers; their weights are copied.

    Raises:
        ValueError: If there is no network.

    Example:
        >>> import torch
        >>> pair = SideBySide([nn.Linear(2, 3), nn.Linear(2, 3)])
        >>> pair(torch.zeros(5, 2, 2)).shape
        torch.Size([5, 2, 3])
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("networks: expected at least one, got none")
        stacked, _ = stack_module_state(list(networks))
        self._names = list(stacked)
        self.weights = nn.ParameterList(weight.detach() for weight in stacked.values())
        self._shape = [copy.deepcopy(networks[0]).to("meta")]  # in a list: not a part of this one
        latents = getattr(networks[0], "latent_features", None)
        if latents is not None:
            self.latent_features = len(networks) * latents

    def forward(self, x: Float[Tensor, "B E *shape"]) -> Float[Tensor, "B E *result"]:
        """Column e of the result is network e's answer to column e.

        Generators take the noise of all games in one row, shape (B, E·Z), as a training loop
        draws it.
        """
        games = len(self.weights[0])
        if x.ndim == 2 and hasattr(self, "latent_features"):
            x = x.unflatten(1, (games, -1))
        weights = dict(zip(self._names, self.weights, strict=True))

        def answer(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self._shape[0], weights, (x,))

        return vmap(answer, in_dims=(0, 1), out_dims=1)(weights, x)
