"""How many random directions a task needs: training inside a subspace of the weights.

    θ = θ₀ + Π z,    Π random with n rows and d columns, only z is trained

Source: Aghajanyan et al. 2021, arXiv:2012.13255, §2, after Li et al. 2018, arXiv:1804.08838.
Differences: Π, which the paper calls P, is dense with independent normal entries, since these
networks are small.
Chapter: course/07_lora.ipynb.
"""

import copy
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from companion.data import digits

__all__ = ["DigitTask", "readable_digits", "train_all", "train_in_subspace"]

_TRAINING = 1200  # of the 1797 digits; the rest is held out


class DigitTask(NamedTuple):
    """Images with their digits, in an order of their own; the last 597 are for the test."""

    images_NI: Float[Tensor, "1797 64"]
    labels_N: Int[Tensor, "1797"]

    def loss(
        self, network: nn.Module, weights: dict[str, Tensor] | None = None
    ) -> Float[Tensor, ""]:
        """Cross-entropy on the training images, in nats, for these weights or the network's own."""
        logits = functional_call(network, weights or {}, (self.images_NI[:_TRAINING],))
        return F.cross_entropy(logits, self.labels_N[:_TRAINING])

    @torch.no_grad()
    def held_out_loss(self, network: nn.Module) -> Float[Tensor, ""]:
        """Cross-entropy on the held-out images, in nats."""
        return F.cross_entropy(network(self.images_NI[_TRAINING:]), self.labels_N[_TRAINING:])

    @torch.no_grad()
    def accuracy(self, network: nn.Module) -> float:
        """Share of the held-out images that the network reads right."""
        read = network(self.images_NI[_TRAINING:]).argmax(dim=1)
        return (read == self.labels_N[_TRAINING:]).float().mean().item()


def readable_digits(*, shift: int, seed: int) -> tuple[nn.Module, DigitTask]:
    """A small network that reads the digits, and the same digits shifted to the right.

    Args:
        shift: Pixels by which the new task's images are moved (around the edge).
        seed: Of the network's start and the order of the images.

    Returns:
        The trained network, 64 → 32 → 10 with tanh, and the shifted task.

    Example:
        >>> network, task = readable_digits(shift=1, seed=0)
        >>> sum(p.numel() for p in network.parameters())
        2410
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = digits()
    order = torch.randperm(len(images), generator=generator)
    images, labels = images[order].float(), labels[order]
    network = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.125, 0.125, generator=generator)
    network = train_all(network, DigitTask(images.flatten(1), labels), steps=200)
    return network, DigitTask(images.roll(shift, dims=-1).flatten(1), labels)


def train_all(network: nn.Module, task: DigitTask, *, steps: int = 120) -> nn.Module:
    """Full tuning: train every weight, by ``steps`` of Adam on all training images each.

    Args:
        network: The start; unchanged.
        task: What to learn.

    Returns:
        A new network.
    """
    tuned = copy.deepcopy(network)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(tuned).backward()
        optimizer.step()
    return tuned


def train_in_subspace(
    network: nn.Module, task: DigitTask, *, directions: int, seed: int, steps: int = 120
) -> nn.Module:
    """Train only ``directions`` numbers z, with all weights at θ₀ + Π z; returns a new network.

    Args:
        network: The start θ₀; unchanged.
        task: What to learn.
        directions: d, at least 1.
        seed: Of Π, whose entries have variance 1/d.
        steps: Of Adam, on all training images each.

    Raises:
        ValueError: If ``directions`` is below 1.
    """
    if directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}")
    start = {name: p.detach() for name, p in network.named_parameters()}
    sizes = [p.numel() for p in start.values()]
    generator = torch.Generator().manual_seed(seed)
    basis_ND = torch.randn(sum(sizes), directions, generator=generator) / directions**0.5
    z_D = torch.zeros(directions, requires_grad=True)
    optimizer = torch.optim.Adam([z_D], lr=0.05)

    def weights() -> dict[str, Tensor]:
        moves = (basis_ND @ z_D).split(sizes)
        pairs = zip(start.items(), moves, strict=True)
        return {name: p + move.view_as(p) for (name, p), move in pairs}

    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(network, weights()).backward()
        optimizer.step()
    tuned = copy.deepcopy(network)
    tuned.load_state_dict({name: p.detach() for name, p in weights().items()})
    return tuned
