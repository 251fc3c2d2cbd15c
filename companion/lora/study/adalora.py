"""AdaLoRA: an update with a singular value for each direction, and one budget for all matrices.

    ΔW = s P Λ Q,    Λ = diag(λ);    a direction k that matters little gets λ_k = 0

Source: Zhang et al. 2023, arXiv:2303.10512, §3. Difference: P and Q start with entries of variance
1/O and 1/I, so that their directions have about the length 1 that the penalty asks for.
Chapter: course/07_lora.ipynb.  Dimension key: I inputs, O outputs, K directions.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "AdaLoRALinear",
    "Importance",
    "add_adalora",
    "budget_at",
    "keep_most_important_",
    "train_adalora",
]

Batch = TypeVar("Batch")


class AdaLoRALinear(nn.Module):
    """A frozen linear layer and an update P Λ Q whose λ start at zero.

    Args:
        base: Layer to adapt, frozen in place.
        directions: K, at least 1.
        scale: s, the factor of the update.
        generator: Source of P and Q.

    Raises:
        ValueError: If ``directions`` is below 1.

    Example:
        >>> layer = AdaLoRALinear(nn.Linear(8, 4), directions=3, scale=2.0)
        >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)
        39
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        directions: int,
        scale: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if directions < 1:
            raise ValueError(f"directions must be at least 1, got {directions}")
        outputs, inputs = base.weight.shape
        self.base, self.scale = base.requires_grad_(False), scale
        self.p_OK = nn.Parameter(torch.randn(outputs, directions, generator=generator))
        self.q_KI = nn.Parameter(torch.randn(directions, inputs, generator=generator))
        self.p_OK.data /= outputs**0.5
        self.q_KI.data /= inputs**0.5
        self.lam_K = nn.Parameter(torch.zeros(directions))

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """The base's output plus that of the update."""
        return self.base(x) + (x @ self.q_KI.T * (self.scale * self.lam_K)) @ self.p_OK.T

    def penalty(self) -> Float[Tensor, ""]:
        """‖PᵀP − 1‖² + ‖QQᵀ − 1‖²: zero where both sets of directions are orthonormal."""
        one = torch.eye(len(self.lam_K))
        of_p, of_q = self.p_OK.T @ self.p_OK - one, self.q_KI @ self.q_KI.T - one
        return of_p.square().sum() + of_q.square().sum()


class Importance:
    """How much each direction of each layer matters, averaged over the steps of training.

        u ← β₁ u + (1 − β₁) |w ∂L/∂w|,    v ← β₂ v + (1 − β₂) | |w ∂L/∂w| − u |
        S_k = uv(λ_k) + mean_o uv(P_ok) + mean_i uv(Q_ki)

    Source: Zhang et al. 2023, §3.2, equations 8 to 11.

    Args:
        layers: Whose parameters are watched.
        beta: β₁ and β₂, in [0, 1).
    """

    def __init__(self, layers: Sequence[AdaLoRALinear], *, beta: float = 0.85) -> None:
        self.layers, self.beta = layers, beta
        self.means = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in self._watched()}

    def _watched(self) -> Iterable[nn.Parameter]:
        return (p for layer in self.layers for p in (layer.lam_K, layer.p_OK, layer.q_KI))

    @torch.no_grad()
    def update(self) -> None:
        """Take up the gradients that stand in the parameters: after backward, before the step."""
        for parameter, (mean, spread) in self.means.items():
            now = (parameter * parameter.grad).abs()
            mean.lerp_(now, 1 - self.beta)
            spread.lerp_((now - mean).abs(), 1 - self.beta)

    def scores(self) -> list[Float[Tensor, "K"]]:
        """S_k of every layer."""
        uv = {parameter: mean * spread for parameter, (mean, spread) in self.means.items()}
        return [uv[m.lam_K] + uv[m.p_OK].mean(0) + uv[m.q_KI].mean(1) for m in self.layers]


@torch.no_grad()
def keep_most_important_(
    layers: Sequence[AdaLoRALinear], scores: Sequence[Float[Tensor, "K"]], budget: int
) -> None:
    """Set λ to zero outside the ``budget`` directions of largest score, over all layers together.

    Example:
        >>> layer = AdaLoRALinear(nn.Linear(4, 4), directions=2, scale=1.0)
        >>> layer.lam_K.data = torch.tensor([5.0, 1.0])
        >>> keep_most_important_([layer], [torch.tensor([0.1, 0.2])], 1)
        >>> layer.lam_K.tolist()
        [0.0, 1.0]
    """
    kept = torch.cat(list(scores)).argsort(descending=True, stable=True)[:budget]
    is_kept = torch.zeros(sum(map(len, scores)), dtype=torch.bool)
    is_kept[kept] = True
    for layer, mask_K in zip(layers, is_kept.split([len(s) for s in scores]), strict=True):
        layer.lam_K *= mask_K


def budget_at(step: int, steps: int, *, first: int, last: int, warmup: int, final: int) -> int:
    """Directions after a step: ``first`` while warming up, then a cubic fall to ``last``.

    Source: Zhang et al. 2023, §3.3, equation 12.

    Args:
        step: From 0.
        steps: Of the whole run.
        first, last: Budget at the start and at the end.
        warmup, final: Steps at either end without a change; together fewer than ``steps``.

    Example:
        >>> [budget_at(i, 6, first=12, last=4, warmup=1, final=1) for i in range(6)]
        [12, 12, 7, 5, 4, 4]
    """
    left = 1 - min(1, max(0, (step - warmup) / (steps - warmup - final)))
    return round(last + (first - last) * left**3)


def add_adalora(
    network: nn.Module,
    *,
    targets: Sequence[str],
    directions: int,
    scale: float,
    generator: torch.Generator | None = None,
) -> list[AdaLoRALinear]:
    """Freeze a network and adapt every linear layer whose last name is a target, in place.

    Args:
        network: Holds ``nn.Linear`` layers under these names.
        targets: Last parts of dotted names, such as "q_proj".
        directions, scale, generator: As for ``AdaLoRALinear``.

    Returns:
        The new layers, in the network's order.

    Raises:
        ValueError: If no layer has such a name.
    """
    network.requires_grad_(False)
    layers = []
    for name, module in list(network.named_modules()):
        if name.split(".")[-1] in targets:
            parent, _, child = name.rpartition(".")
            layer = AdaLoRALinear(module, directions=directions, scale=scale, generator=generator)
            setattr(network.get_submodule(parent), child, layer)
            layers.append(layer)
    if not layers:
        raise ValueError(f"targets: expected names of linear layers, got {list(targets)}")
    return layers


def train_adalora(
    layers: Sequence[AdaLoRALinear],
    batches: Sequence[Batch],
    loss_of: Callable[[Batch], Float[Tensor, ""]],
    *,
    learning_rate: float,
    directions: int,
) -> None:
    """One step of AdamW for each batch; the budget falls to ``directions`` a layer on average.

    The learning rate warms up over three steps and falls linearly, as in the chapter. The first
    fifth of the steps keeps the whole budget, the last third the final one.

    Args:
        layers: From ``add_adalora``, with more directions each than remain in the end.
        batches: One for each step.
        loss_of: The loss of a batch, in nats; the penalty is added here, with a factor of 0.1.
        learning_rate: At its highest.
        directions: Of a layer at the end, on average over the layers.
    """
    importance, steps = Importance(layers), len(batches)
    parameters = [p for layer in layers for p in (layer.p_OK, layer.lam_K, layer.q_KI)]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    first = sum(len(layer.lam_K) for layer in layers)
    for i, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (i + 1) / 3) * (1 - i / steps)
        optimizer.zero_grad()
        (loss_of(batch) + 0.1 * sum(layer.penalty() for layer in layers)).backward()
        importance.update()
        optimizer.step()
        last, ends = directions * len(layers), {"warmup": steps // 5, "final": steps // 3}
        budget = budget_at(i, steps, first=first, last=last, **ends)
        keep_most_important_(layers, importance.scores(), budget)
