"""Two Gaussian densities that move apart, with the best discriminator between them.

Chapter: course/01_gan.ipynb.  Dimension key: X points of the grid.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from companion.gan.divergence import jensen_shannon, optimal_discriminator
from companion.gan.study.figures import BLUE, GREEN, ORANGE

__all__ = ["TwoDensities", "normal_density"]


def normal_density(x_X: Float[Tensor, " X"], mean: float, std: float) -> Float[Tensor, " X"]:
    """The density of N(mean, std²) at each point."""
    return torch.distributions.Normal(mean, std).log_prob(x_X).exp()


class TwoDensities:
    """p = N(0, 1) and q = N(s, 1): frames of D* and of the Jensen-Shannon divergence over s.

    Fields:
        values: The distances s, for ``companion.explore.frames``.
        x_X: The grid.

    Args:
        distances: Values of s.

    Example:
        >>> densities = TwoDensities([0.0, 8.0])
        >>> [round(densities.divergence(s), 3) for s in densities.values]
        [0.0, 0.693]
    """

    def __init__(self, distances: Sequence[float]) -> None:
        self.values = list(distances)
        self.x_X = torch.linspace(-5, 13, 1801, dtype=torch.float64)
        between = torch.linspace(min(distances), max(distances), 81).tolist()
        self._curve = between, [self.divergence(distance) for distance in between]

    def densities(self, distance: float) -> tuple[Float[Tensor, " X"], Float[Tensor, " X"]]:
        """p and q on the grid."""
        return normal_density(self.x_X, 0.0, 1.0), normal_density(self.x_X, distance, 1.0)

    def divergence(self, distance: float) -> float:
        """JSD(p, q) in nats, by the grid's sum."""
        return jensen_shannon(*self.densities(distance)).item()

    def draw(self, distance: float) -> Figure:
        """Left the densities and D*, right the divergence over the distance."""
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(7.6, 3.0), width_ratios=(2, 1), layout="constrained"
        )
        p_X, q_X = self.densities(distance)
        left.fill_between(self.x_X, p_X, color=BLUE, alpha=0.35, lw=0, label="p, real")
        left.fill_between(self.x_X, q_X, color=ORANGE, alpha=0.35, lw=0, label="q, generated")
        left.plot(self.x_X, optimal_discriminator(p_X, q_X), color="0.15", label="D*")
        left.set(xlabel="x", ylim=(0, 1.02), xlim=(-5, 13), ylabel="density; D*")
        left.legend(frameon=False, loc="upper right")
        right.plot(*self._curve, color=GREEN)
        right.plot(distance, self.divergence(distance), "o", color=GREEN, ms=7)
        right.axhline(torch.tensor(2.0).log().item(), color="0.45", ls="--", lw=1)
        right.text(0, 0.70, "log 2", color="0.3", va="bottom")
        right.set(xlabel="distance s", ylabel="JSD (nats)", ylim=(-0.02, 0.78))
        return figure

    def describe(self, distance: float) -> str:
        """What the frame shows, in words."""
        p_X, q_X = self.densities(distance)
        middle = optimal_discriminator(p_X, q_X)[(self.x_X - distance).abs().argmin()].item()
        return (
            f"Two bell curves at a distance of {distance:g}. The best discriminator falls from "
            f"left to right; at the centre of q it is {middle:.3f}. JSD "
            f"{self.divergence(distance):.3f} nats."
        )
