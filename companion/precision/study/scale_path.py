"""A loss scale that follows a run: the frames of an explorable.

Chapter: course/08_precision.ipynb.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import nn

from companion.checks import check_count
from companion.precision.float_format import FP16
from companion.precision.loss_scaler import LossScaler
from companion.precision.study.figures import draw_scale_path

__all__ = ["ScalePath", "ScalePaths", "scale_path"]


class ScalePath(NamedTuple):
    """The scale before each step, and whether the step overflowed."""

    scales: list[float]
    overflowed: list[bool]


def scale_path(largest: Sequence[float], *, growth_interval: int) -> ScalePath:
    """Let a ``LossScaler`` follow a run whose largest gradient is given.

    Args:
        largest: Magnitude of the largest gradient of each step, unscaled; scaled beyond FP16's
            largest number it is an infinity.
        growth_interval: Of the scaler.
    """
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = LossScaler(init_scale=2.0**16, growth_interval=growth_interval)
    path = ScalePath([], [])
    for gradient in largest:
        path.scales.append(scaler.value)
        weight.grad = FP16.round(torch.tensor([gradient * scaler.value]))
        path.overflowed.append(not scaler.step(optimizer))
        scaler.update()
    return path


class ScalePaths:
    """The paths of one run for several growth intervals, as pictures.

    The run's largest gradient falls from 2^3 to about 2^-3, with a spread of a factor of two.

    Fields:
        values: The intervals, for ``companion.explore.frames``.

    Args:
        intervals: Growth intervals, at least 1.
        steps: Length of the run.

    Example:
        >>> paths = ScalePaths([10, 100])
        >>> [sum(paths.path(interval).overflowed) for interval in paths.values]
        [32, 4]
    """

    def __init__(self, intervals: Sequence[int], *, steps: int = 400) -> None:
        for interval in intervals:
            check_count("interval", interval)
        self.values = list(intervals)
        self._steps = steps

    def path(self, interval: int) -> ScalePath:
        """The path of that interval."""
        # Fractions of the golden ratio: spread evenly, and the same on every machine.
        wobble = [2.0 ** ((i * 0.6180339887 % 1) - 0.5) for i in range(self._steps)]
        trend = [2.0 ** (3 - 6 * i / self._steps) for i in range(self._steps)]
        largest = [a * b for a, b in zip(trend, wobble, strict=True)]
        return scale_path(largest, growth_interval=interval)

    def draw(self, interval: int) -> Figure:
        """The scale over the steps."""
        return draw_scale_path(*self.path(interval))

    def describe(self, interval: int) -> str:
        """What the frame shows, in words."""
        path = self.path(interval)
        return (
            f"A saw-tooth. The scale doubles after {interval} good steps and halves at each of "
            f"{sum(path.overflowed)} overflows in {self._steps} steps; it ends at "
            f"{path.scales[-1]:g}."
        )
