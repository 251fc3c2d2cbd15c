"""The whole game on a line: data, generated samples and discriminator, step by step.

Chapter: course/01_gan.ipynb.  Dimension key: N samples, X points of the grid.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from companion.gan.losses import non_saturating_loss
from companion.gan.networks import Discriminator, Generator
from companion.gan.study.figures import BLUE, ORANGE
from companion.gan.training import GANStep

__all__ = ["LineGame"]


class LineGame:
    """A GAN learns N(2, 0.5²), and frames show how.

    Fields:
        values: The steps after which it was looked at, for ``companion.explore.frames``.

    Args:
        steps: Which, in rising order.
        seed: Of data, weights and noise.

    Example:
        >>> game = LineGame([0, 5])
        >>> game.values
        [0, 5]
    """

    def __init__(self, steps: Sequence[int], *, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.values = list(steps)
        self.data_N1 = 2 + 0.5 * torch.randn(2000, 1, generator=rng)
        self._x_X1 = torch.linspace(-3, 5, 161)[:, None]
        G = Generator(2, 1, width=16, depth=2, generator=rng)
        D = Discriminator(1, width=16, depth=2, generator=rng)
        step = GANStep(
            G, D, self.data_N1, loss=non_saturating_loss, gamma=0.1, batch_size=256,
            learning_rate=4e-3, generator_rng=rng,
        )  # fmt: skip
        noise = torch.randn(2000, 2, generator=rng)
        self._looks = {}
        for done in range(self.values[-1] + 1):
            if done in self.values:
                with torch.no_grad():
                    self._looks[done] = G(noise), D(self._x_X1).sigmoid()
            step(done)

    def draw(self, step: int) -> Figure:
        """Histograms of both kinds of samples, and the discriminator's curve."""
        fake_N1, probability_X = self._looks[step]
        figure, axes = plt.subplots(figsize=(6.0, 2.8), layout="constrained")
        bins = torch.linspace(-3, 5, 65).tolist()
        for samples, color, label in (
            (self.data_N1, BLUE, "data"),
            (fake_N1, ORANGE, "generated"),
        ):
            heights = samples.flatten().tolist()
            axes.hist(heights, bins, density=True, color=color, alpha=0.45, lw=0, label=label)
        curve = axes.twinx()
        curve.plot(self._x_X1.flatten(), probability_X, color="0.15", label="D")
        curve.set(ylim=(0, 1.02), ylabel="D: probability of real")
        axes.set(xlim=(-3, 5), ylim=(0, 1.6), xlabel="x", ylabel="samples (density)")
        handles = [*axes.get_legend_handles_labels()[0], *curve.lines]
        axes.legend(handles, ["data", "generated", "D"], frameon=False, loc="upper left")
        return figure

    def describe(self, step: int) -> str:
        """What the frame shows, in words."""
        fake_N1, probability_X = self._looks[step]
        mean, spread = fake_N1.mean(), fake_N1.std()
        return (
            f"After {step} steps: data around 2, generated samples around {mean:.1f} with a spread "
            f"of {spread:.1f}; the discriminator between {probability_X.min():.2f} and "
            f"{probability_X.max():.2f}."
        )
