"""Drawings of chapter 08. Each takes what it draws and returns the matplotlib Figure.

Chapter: course/08_precision.ipynb.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from companion.precision.float_format import FP16, FloatFormat
from companion.precision.study.gradient_histogram import LOWEST

__all__ = [
    "draw_dose_response",
    "draw_gradient_histogram",
    "draw_losses",
    "draw_number_line",
    "draw_repairs",
    "draw_scale_path",
    "draw_weight_paths",
]

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN, RED = PALETTE[:4]
GREY = "0.45"
STYLES = ("-", "--", ":", "-.")


def draw_number_line(format: FloatFormat) -> Figure:
    """All positive numbers of a small format on a line, and its beginning enlarged.

    Args:
        format: With at most 64 positive numbers.
    """
    values = format.decode(torch.arange(1, 2 ** (format.bits - 1)))
    values = values[values.isfinite()].numpy()
    figure, rows = plt.subplots(2, 1, figsize=(7.4, 2.6), layout="constrained")
    powers = [2.0**e for e in range(-20, 20) if format.min_normal <= 2.0**e <= format.max]
    for axes, end in zip(rows, (format.max, 8 * format.min_normal), strict=True):
        for index, (low, high) in enumerate(zip([0.0, *powers], [*powers, np.inf], strict=True)):
            inside = values[(values >= low) & (values < high) & (values <= end)]
            color = ORANGE if index == 0 else (BLUE, GREEN)[index % 2]
            label = "subnormal" if index == 0 else None
            height = np.zeros_like(inside)
            axes.plot(inside, height, "|", ms=16, mew=1.6, color=color, label=label)
        ticks = [0, *(power for power in powers if end / 16 <= power <= end)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(yticks=[], ylim=(-1, 1), xlim=(-0.015 * end, end * 1.03))
        sns.despine(ax=axes, left=True)
    rows[0].legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 1.25))
    rows[1].set_xlabel("value")
    return figure


def draw_gradient_histogram(
    counts: Mapping[str, Tensor], format: FloatFormat = FP16, *, lowest: int = -45
) -> Figure:
    """Gradients by their exponent, with the range of a format drawn over them.

    Args:
        counts: Name of a part of the model → ``exponent_counts`` of its gradients; stacked.
        format: Whose subnormal and normal ranges are shaded.
        lowest: Exponent at the left end.
    """
    exponents = np.arange(LOWEST, LOWEST + len(next(iter(counts.values()))))
    every = sum(part.sum().item() for part in counts.values())
    figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    smallest, normal = np.log2(format.min_subnormal), np.log2(format.min_normal)
    axes.axvspan(smallest, normal, color=ORANGE, alpha=0.25, label="FP16: subnormal", zorder=0)
    axes.axvspan(normal, 16, color=GREEN, alpha=0.2, label="FP16: normal", zorder=0)
    axes.axvline(smallest - 1, color="black", ls=":", lw=1.2, label="left of it: rounds to zero")
    bottom = np.zeros(len(exponents))
    for (name, part), color, hatch in zip(counts.items(), (RED, BLUE), ("//", ""), strict=False):
        shares = 100 * part.double().numpy() / every
        style = {"color": color, "edgecolor": "white", "lw": 0.5, "hatch": hatch}
        axes.bar(exponents + 0.5, shares, width=1.0, bottom=bottom, label=name, **style)
        bottom += shares
    axes.set(xlabel="exponent of the gradient, base 2", ylabel="share (%)", xlim=(lowest, 16))
    axes.legend(frameon=False, loc="upper right")
    return figure


def draw_weight_paths(paths: Mapping[str, Sequence[float]]) -> Figure:
    """A weight over the steps, one line for each way to update it.

    Args:
        paths: Name → weight after each step.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    for index, (name, path) in enumerate(paths.items()):
        style = STYLES[index % len(STYLES)]
        axes.plot(path, style, color=PALETTE[index], lw=1.8, label=name, drawstyle="steps-post")
    axes.set(xlabel="step", ylabel="weight")
    axes.legend(frameon=False)
    return figure


def draw_losses(losses: Mapping[str, Tensor]) -> Figure:
    """Training loss against the step, one line for each run.

    Args:
        losses: Name of a run → its loss, shape (steps, seeds), of which the mean is drawn.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    for index, (name, loss) in enumerate(losses.items()):
        style = STYLES[index % len(STYLES)]
        axes.plot(loss.mean(-1), style, color=PALETTE[index], lw=1.8, label=name)
    axes.set(xlabel="step", ylabel="training loss (nats)", yscale="log")
    axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def draw_repairs(
    results: Mapping[str, Sequence[float]], *, label: str, limit: float, mark: tuple[float, str]
) -> Figure:
    """The result of each variant of a run: a mark for each seed, a bar for the mean.

    Args:
        results: Name of a variant → result of each seed.
        label: What a result is.
        limit: Right end of the axis.
        mark: Where to draw a dotted line, and what it says.
    """
    figure, axes = plt.subplots(figsize=(7.0, 0.4 * len(results) + 0.4), layout="constrained")
    for place, (name, values) in enumerate(results.items()):
        color = GREY if name == "FP32" else (ORANGE if "no " in name else BLUE)
        axes.barh(place, np.mean(values), height=0.6, color=color, alpha=0.55)
        axes.plot(values, [place] * len(values), "o", ms=5, color=color, mec="black", mew=0.6)
    axes.set_yticks(range(len(results)), results)
    axes.axvline(mark[0], color="black", ls=":", lw=1)
    axes.text(mark[0] + limit / 200, -0.45, mark[1], fontsize=8, va="bottom")
    axes.set(xlabel=label, xlim=(0, limit), ylim=(len(results) - 0.4, -0.9))
    return figure


def draw_dose_response(
    samples: Sequence[float], accuracies: Sequence[Sequence[float]], shares: Sequence[float]
) -> Figure:
    """Accuracy and vanished gradients against the number of samples in a mean.

    Args:
        samples: For how many samples the loss is the mean.
        accuracies: Of each seed, for each of them.
        shares: Of the outputs' gradients that vanished in the first step.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 2.9), layout="constrained")
    left.plot(samples, [np.mean(a) for a in accuracies], color=BLUE, lw=1.5)
    for at, values in zip(samples, accuracies, strict=True):
        left.plot([at] * len(values), values, "o", ms=5, color=BLUE, mec="black", mew=0.6)
    right.plot(samples, shares, "s-", ms=5, color=ORANGE)
    for axes, label in ((left, "share of digits recognised"), (right, "output gradients at zero")):
        axes.set(xscale="log", ylim=(0, 1.05), xlabel="samples in the mean", ylabel=label)
    return figure


def draw_scale_path(scales: Sequence[float], overflowed: Sequence[bool]) -> Figure:
    """The loss scale over the steps, with the skipped ones marked.

    Args:
        scales: Before each step.
        overflowed: Whether that step was skipped.
    """
    figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    steps = np.arange(len(scales))
    axes.plot(steps, np.log2(scales), drawstyle="steps-post", color=BLUE, lw=1.4, label="scale")
    bad = np.flatnonzero(overflowed)
    heights = np.log2(np.asarray(scales, float)[bad])
    axes.plot(bad, heights, "x", color=ORANGE, ms=6, mew=1.6, label="overflow: step skipped")
    axes.set(xlabel="step", ylabel="scale, log base 2")
    axes.legend(frameon=False, loc="lower right", ncols=2)
    return figure
