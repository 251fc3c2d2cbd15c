"""How much of a change a loss needs: rebuild it from its largest singular directions and measure.

    ΔW ≈ U_r S_r V_rᵀ    for every matrix at once

Chapter: course/07_lora.ipynb.  Dimension key: I inputs, O outputs, K min(I, O).
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["losses_of_truncations", "rebuilt"]


def rebuilt(delta: Float[Tensor, "O I"], rank: int) -> Float[Tensor, "O I"]:
    """The best approximation of a matrix by one of at most this rank (Eckart and Young 1936).

    Raises:
        ValueError: If ``rank`` is negative.

    Example:
        >>> rebuilt(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).round().diagonal()
        tensor([3., 2., 0.])
    """
    if rank < 0:
        raise ValueError(f"rank must be at least 0, got {rank}")
    u_OK, s_K, v_KI = torch.linalg.svd(delta, full_matrices=False)
    return u_OK[:, :rank] * s_K[:rank] @ v_KI[:rank]


@torch.no_grad()
def losses_of_truncations(
    network: nn.Module,
    deltas: Mapping[str, Float[Tensor, "O I"]],
    ranks: Sequence[int],
    loss: Callable[[nn.Module], float],
) -> dict[int, float]:
    """Loss of the network with every change rebuilt at each of the ranks.

    Each matrix is decomposed once. The network itself is not touched.

    Args:
        network: The one before the change; plain linear layers under the names of ``deltas``.
        deltas: Dotted name of a layer → change of its weight (outputs × inputs).
        ranks: How many directions to keep of every change; 0 is the network as it is.
        loss: Takes a network, returns a number.

    Returns:
        Rank → loss.

    Raises:
        ValueError: If a change has another shape than its layer's weight.

    Example:
        >>> layer = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> change = torch.diag(torch.tensor([3.0, 1.0])) - layer[0].weight.detach()
        >>> losses_of_truncations(
        ...     layer, {"0": change}, (2,), lambda n: round(n[0].weight.sum().item(), 3)
        ... )
        {2: 4.0}
    """
    changed = copy.deepcopy(network)
    decomposed = {}
    for name, delta_OI in deltas.items():
        weight_OI = network.get_submodule(name).weight
        if weight_OI.shape != delta_OI.shape:
            raise ValueError(
                f"{name}: expected a change of shape {tuple(weight_OI.shape)}, "
                f"got {tuple(delta_OI.shape)}"
            )
        decomposed[name] = torch.linalg.svd(delta_OI, full_matrices=False)
    losses = {}
    for rank in ranks:
        for name, (u_OK, s_K, v_KI) in decomposed.items():
            weight_OI = network.get_submodule(name).weight
            delta_OI = u_OK[:, :rank] * s_K[:rank] @ v_KI[:rank]
            changed.get_submodule(name).weight.copy_(weight_OI + delta_OI)
        losses[rank] = loss(changed)
    return losses
