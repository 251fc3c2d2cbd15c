"""Training on the ring of Gaussians, kept as frames.

Chapter: course/01_gan.ipynb.  Dimension key: N samples.
"""

from collections.abc import Mapping

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from companion.gan.coverage import mode_coverage
from companion.gan.study.figures import draw_rings

__all__ = ["RingTraining"]


class RingTraining:
    """Clouds of several runs at the same steps, side by side.

    Fields:
        values: The steps, for ``companion.explore.frames``.

    Args:
        runs: Name of a run → step → its generated points.
        target: Real points.
        centers: Of the modes.
        radius, least_share: As in ``companion.gan.coverage.mode_coverage``.

    Raises:
        ValueError: If the runs were not looked at after the same steps.

    Example:
        >>> import torch
        >>> runs = {"a": {0: torch.zeros(3, 2)}, "b": {0: torch.ones(3, 2)}}
        >>> training = RingTraining(runs, torch.ones(5, 2), centers=torch.ones(1, 2), radius=0.1)
        >>> training.covered(0)
        {'a': 0, 'b': 1}
    """

    def __init__(
        self,
        runs: Mapping[str, Mapping[int, Float[Tensor, "N 2"]]],
        target: Float[Tensor, "M 2"],
        *,
        centers: Float[Tensor, "K 2"],
        radius: float,
        least_share: float = 0.0,
    ) -> None:
        steps = {name: list(clouds) for name, clouds in runs.items()}
        self.values = next(iter(steps.values()))
        if any(looked != self.values for looked in steps.values()):
            raise ValueError(f"runs: expected looks after the same steps, got {steps}")
        self._runs, self._target = runs, target
        self._centers = centers
        self._rule = {"radius": radius, "least_share": least_share}

    def covered(self, step: int) -> dict[str, int]:
        """How many modes each run covers after that step."""
        return {
            name: mode_coverage(clouds[step], self._centers, **self._rule).modes
            for name, clouds in self._runs.items()
        }

    def draw(self, step: int) -> Figure:
        """One panel for each run."""
        modes = self.covered(step)
        titles = {name: f"{name}: {modes[name]} of {len(self._centers)}" for name in modes}
        clouds = {titles[name]: run[step] for name, run in self._runs.items()}
        return draw_rings(clouds, self._target)

    def describe(self, step: int) -> str:
        """What the frame shows, in words."""
        parts = [f"{name} covers {modes}" for name, modes in self.covered(step).items()]
        return f"After {step} steps, of {len(self._centers)} modes: {'; '.join(parts)}."
