"""The bits of a number in several formats: the frames of an explorable.

Chapter: course/08_precision.ipynb.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from companion.precision.float_format import BF16, E4M3, E5M2, FP16, FP32, FloatFormat

__all__ = ["FORMATS", "BitFrames"]

FORMATS: Mapping[str, FloatFormat] = {
    "FP32": FP32,
    "FP16": FP16,
    "BF16": BF16,
    "E5M2": E5M2,
    "E4M3": E4M3,
}
SIGN, EXPONENT, FRACTION = sns.color_palette("colorblind")[3], *sns.color_palette("colorblind")[:2]


class BitFrames:
    """Numbers in several formats as rows of bits, with what each format makes of them.

    Fields:
        values: The numbers, for ``companion.explore.frames``.

    Args:
        values: At least two.
        formats: Name → format, from the top.

    Example:
        >>> bits = BitFrames([0.1, 2049.0])
        >>> print(bits.describe(2049.0))
        2049 is FP32 2049, FP16 2048, BF16 2048, E5M2 2048, E4M3 nan.
    """

    def __init__(
        self, values: Sequence[float], formats: Mapping[str, FloatFormat] = FORMATS
    ) -> None:
        self.values = list(values)
        self._formats = formats

    def rounded(self, value: float, name: str) -> float:
        """The number in a format."""
        return self._formats[name].round(torch.tensor(value, dtype=torch.float64)).item()

    def draw(self, value: float) -> Figure:
        """One row for each format."""
        figure, axes = plt.subplots(figsize=(7.2, 0.38 * len(self._formats) + 0.5))
        for row, (name, format) in enumerate(self._formats.items()):
            text = "".join(format.fields(value))
            for place, bit in enumerate(text):
                _draw_bit(axes, (place, -row), bit, _color(format, place))
            axes.text(-0.5, 0.45 - row, name, ha="right", va="center", fontsize=9)
            axes.text(32.6, 0.45 - row, self._verdict(value, name), va="center", fontsize=8)
        axes.set(xlim=(-4.5, 50), ylim=(0.2 - len(self._formats), 1.9))
        for place, (label, color) in enumerate(
            (("sign", SIGN), ("exponent", EXPONENT), ("fraction", FRACTION))
        ):
            axes.text(7 * place, 1.3, label, color=color, fontsize=8, fontweight="bold")
        axes.axis("off")
        figure.subplots_adjust(0.0, 0.0, 1.0, 1.0)
        return figure

    def describe(self, value: float) -> str:
        """What the frame shows, in words."""
        made = ", ".join(f"{name} {self.rounded(value, name):.6g}" for name in self._formats)
        return f"{value:.10g} is {made}."

    def _verdict(self, value: float, name: str) -> str:
        rounded = self.rounded(value, name)
        if not math.isfinite(rounded):
            return f"{rounded:g}"
        error = abs(rounded - value) / abs(value) if value else 0.0
        return f"{rounded:.7g}" + (f", error {error:.0e}" if error else ", exact")


def _color(format: FloatFormat, place: int) -> tuple:
    return SIGN if place == 0 else EXPONENT if place <= format.exponent_bits else FRACTION


def _draw_bit(axes: Axes, corner: tuple[int, int], bit: str, color: tuple) -> None:
    alpha = 0.75 if bit == "1" else 0.2
    axes.add_patch(Rectangle(corner, 0.9, 0.8, color=color, alpha=alpha, lw=0))
    axes.text(corner[0] + 0.45, corner[1] + 0.38, bit, ha="center", va="center", fontsize=7)
