"""Drawings of chapter 11. Each takes what it draws and returns the matplotlib Figure.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator

from companion.collectives.cost.closed_forms import collective_cost
from companion.collectives.cost.coefficients import Algorithm
from companion.collectives.cost.simulation import Trace
from companion.collectives.study.seven_billion import ScalePoint

__all__ = [
    "draw_against_ranks",
    "draw_algorithms",
    "draw_all_reduce",
    "draw_at_scale",
    "draw_time_against_size",
    "draw_timeline",
    "draw_trace",
]

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN = PALETTE[:3]
GREY = "0.45"
MARKERS = "osD^vPX"  # shape tells series apart where colour does not
_SCALE_LABELS = {
    "ring": "flat ring",
    "hierarchical": "hierarchical ring",
    "halving_doubling": "halving and doubling",
}
# Each has the same colour and mark in every figure that draws these.
_LOOKS = ("parameter_server", "naive_ring", "ring", "tree", "halving_doubling")
HATCHES = ("", "////", "....", "xxxx")


def draw_all_reduce(rows_PC: Sequence[Sequence[float]]) -> Figure:
    """Devices with a row of numbers each, before and after: every row becomes the column sums.

    Args:
        rows_PC: The numbers of P devices, C each.
    """
    before = np.asarray(rows_PC)
    after = np.broadcast_to(before.sum(axis=0), before.shape)
    ranks, columns = before.shape
    figure, panels = plt.subplots(
        1, 2, figsize=(1.3 * columns + 2.2, 0.52 * ranks + 0.7), layout="constrained"
    )
    for axes, numbers, title in zip(panels, (before, after), ("before", "after"), strict=True):
        for (rank, column), number in np.ndenumerate(numbers):
            # A column has its chunk's colour, as in the ring's frames; sums are darker.
            color, alpha = PALETTE[column % len(PALETTE)], 0.3 if title == "before" else 0.8
            corner = (column, ranks - 1 - rank)
            axes.add_patch(Rectangle(corner, 1, 0.8, fc=color, ec="white", lw=2, alpha=alpha))
            axes.text(column + 0.5, corner[1] + 0.4, f"{number:g}", ha="center", va="center")
        for rank in range(ranks):
            axes.text(-0.12, ranks - 0.6 - rank, f"rank {rank}", ha="right", va="center")
        axes.set(xlim=(-1.0, columns), ylim=(-0.1, ranks), title=title)
        axes.axis("off")
    return figure


def draw_time_against_size(
    measured: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ranks: int,
    alpha_s: float,
    beta_s_per_byte: float,
    algorithm: Algorithm = "ring",
    model_label: str = "model",
) -> Figure:
    """Measured times as marks, the fitted model as a line, both axes logarithmic.

    Args:
        measured: Name of a series, as "fitted" or "held out" → (sizes in bytes, times in s).
        ranks, alpha_s, beta_s_per_byte, algorithm: The model, as in
            ``companion.collectives.cost.closed_forms.collective_cost``.
        model_label: The line's name.
    """
    figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    every = np.concatenate([np.asarray(sizes, float) for sizes, _ in measured.values()])
    sizes = np.geomspace(every.min(), every.max(), 200)
    model = {"ranks": ranks, "alpha_s": alpha_s, "beta_s_per_byte": beta_s_per_byte}
    seconds = collective_cost(algorithm, bytes=sizes, **model)
    axes.plot(sizes, 1e3 * seconds, color=GREY, lw=1.5, label=model_label)
    for index, (name, (at, times)) in enumerate(measured.items()):
        points = 1e3 * np.asarray(times)
        axes.plot(at, points, MARKERS[index], color=PALETTE[index], ms=6, label=name)
    axes.set(xscale="log", yscale="log", xlabel="size S (bytes)", ylabel="time (ms)")
    axes.legend(frameon=False)
    return figure


def draw_against_ranks(
    times: Mapping[int, Mapping[Algorithm, Sequence[float]]],
    sizes_bytes: Mapping[str, float],
    *,
    alpha_s: float,
    beta_s_per_byte: float,
) -> Figure:
    """Measured times against the number of ranks, one panel for each size; lines are the model.

    Args:
        times: P → algorithm → seconds, one for each size.
        sizes_bytes: Title → S.
        alpha_s, beta_s_per_byte: The model, as in
            ``companion.collectives.cost.closed_forms.collective_cost``.
    """
    figure, row = plt.subplots(
        1, len(sizes_bytes), figsize=(3.6 * len(sizes_bytes), 3.4), layout="constrained"
    )
    names = next(iter(times.values()))
    link = {"alpha_s": alpha_s, "beta_s_per_byte": beta_s_per_byte}
    panels = zip(np.atleast_1d(row), sizes_bytes.items(), strict=True)
    for place, (axes, (title, size)) in enumerate(panels):
        for name in names:
            look = _look(name)
            color = PALETTE[look]
            model_s = [collective_cost(name, ranks=p, bytes=size, **link) for p in times]
            axes.plot(list(times), 1e3 * np.array(model_s), color=color, lw=1.2)
            measured_ms = [1e3 * by_name[name][place] for by_name in times.values()]
            axes.plot(
                list(times), measured_ms, MARKERS[look], color=color, ms=6, label=_label(name)
            )
        axes.axhline(2e3 * size * beta_s_per_byte, color=GREY, ls=":", label="2Sβ")
        axes.set(xlabel="ranks P", ylabel="time (ms)", title=title, ylim=(0, None))
        axes.set_xticks(list(times))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=5, loc="outside upper center")
    return figure


def draw_algorithms(
    sizes_bytes: Sequence[float],
    times: Mapping[Algorithm, Sequence[float]],
    *,
    ranks: int,
    alpha_s: float,
    beta_s_per_byte: float,
) -> Figure:
    """Measured times of several algorithms as marks, their models as lines.

    Args:
        sizes_bytes: Which S.
        times: Algorithm → seconds, one for each size.
        ranks, alpha_s, beta_s_per_byte: The model, as in
            ``companion.collectives.cost.closed_forms.collective_cost``.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    sizes = np.geomspace(min(sizes_bytes), max(sizes_bytes), 200)
    model = {"ranks": ranks, "alpha_s": alpha_s, "beta_s_per_byte": beta_s_per_byte}
    for name, seconds in times.items():
        look = _look(name)
        color = PALETTE[look]
        axes.plot(sizes, 1e3 * collective_cost(name, bytes=sizes, **model), color=color, lw=1.2)
        milliseconds = 1e3 * np.asarray(seconds)
        axes.plot(sizes_bytes, milliseconds, MARKERS[look], color=color, ms=6, label=_label(name))
    axes.set(xscale="log", yscale="log", xlabel="size S (KiB)", ylabel="time (ms)")
    axes.set_xticks(list(sizes_bytes), [f"{size / 1024:g}" for size in sizes_bytes])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.minorticks_off()
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def draw_at_scale(panels: Mapping[str, Sequence[ScalePoint]]) -> Figure:
    """Time of one call against the number of ranks, one panel for each size.

    Args:
        panels: Title → points of ``companion.collectives.study.seven_billion.all_reduce_at_scale``.
    """
    figure, row = plt.subplots(
        1, len(panels), figsize=(4.1 * len(panels), 3.4), layout="constrained", squeeze=False
    )
    for axes, (title, points) in zip(row[0], panels.items(), strict=True):
        for index, name in enumerate(dict.fromkeys(point.algorithm for point in points)):
            mine = [point for point in points if point.algorithm == name]
            axes.plot(
                [point.ranks for point in mine],
                [1e3 * point.total_s for point in mine],
                f"{MARKERS[index]}-",
                color=PALETTE[index],
                ms=5,
                label=_SCALE_LABELS.get(name, name),
            )
        axes.set(xscale="log", yscale="log", xlabel="GPUs P", ylabel="time (ms)", title=title)
        axes.set_xticks([8, 64, 512, 4096, 65536], ["8", "64", "512", "4096", "65,536"])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
        axes.minorticks_off()
    handles, labels = row[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside upper center")
    return figure


def draw_timeline(
    rows: Mapping[str, Sequence[tuple[str, float, float]]], *, time_label: str = "time (ms)"
) -> Figure:
    """Spans as bars, one row for each thread, rank or schedule; times start at the first span.

    Args:
        rows: Name of a row → spans (kind, start in s, end in s). A kind has one colour and hatch.
        time_label: Of the axis, whose unit is the millisecond.

    Raises:
        ValueError: There are no spans.
    """
    spans = [span for row in rows.values() for span in row]
    if not spans:
        raise ValueError("expected at least one span, got none")
    start = min(begin for _, begin, _ in spans)
    kinds = list(dict.fromkeys(kind for kind, _, _ in spans))
    figure, axes = plt.subplots(figsize=(7.2, 0.42 * len(rows) + 1.1), layout="constrained")
    for place, row in enumerate(rows.values()):
        for kind, begin, end in row:
            _bar(axes, place, begin - start, end - begin, kinds.index(kind))
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=time_label, ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlim(0, 1e3 * (max(end for _, _, end in spans) - start) * 1.01)
    handles = [_key(index, kind) for index, kind in enumerate(kinds)]
    axes.legend(
        handles=handles, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    return figure


def draw_trace(trace: Trace) -> Figure:
    """A simulated call: for each rank, when it receives and when it adds.

    Raises:
        ValueError: The trace kept no events.
    """
    rows: dict[str, list[tuple[str, float, float]]] = {
        f"rank {rank}": [] for rank in range(len(trace.finish_s))
    }
    for event in trace.events:
        rows[f"rank {event.dst}"].append(("receives", event.start_s, event.end_s))
        if event.done_s > event.end_s:
            rows[f"rank {event.dst}"].append(("adds", event.end_s, event.done_s))
    return draw_timeline(rows)


def _look(name: str) -> int:
    return _LOOKS.index(name)


def _label(name: str) -> str:
    return name.replace("_", " ").replace("halving", "halving and")


def _bar(axes: Axes, place: int, begin_s: float, length_s: float, kind: int) -> None:
    axes.broken_barh(
        [(1e3 * begin_s, 1e3 * length_s)],
        (place - 0.36, 0.72),
        facecolor=PALETTE[kind % len(PALETTE)],
        hatch=HATCHES[kind % len(HATCHES)],
        edgecolor="white",
        lw=0.5,
    )


def _key(kind: int, label: str) -> Patch:
    color, hatch = PALETTE[kind % len(PALETTE)], HATCHES[kind % len(HATCHES)]
    return Patch(facecolor=color, hatch=hatch, edgecolor="white", label=label)
