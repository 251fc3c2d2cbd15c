"""Which all-reduce is fastest, drawn over ranks and sizes: the frames of an explorable.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from companion.collectives.cost.closed_forms import CANDIDATES, collective_cost
from companion.collectives.cost.coefficients import Algorithm
from companion.collectives.cost.topology import Link

__all__ = ["NETWORKS", "AlgorithmMap", "size_text"]

_LABEL = {"boxstyle": "round", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
PALETTE = sns.color_palette("colorblind")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

# Round numbers of the right size, to compare kinds of networks; none was measured here. NVLink's
# and InfiniBand's α are those of NCCL's own tuning table (src/graph/tuning.cc, "Simple").
NETWORKS: Mapping[str, Link] = {
    "shared memory (1 µs, 10 GB/s)": Link(1e-6, 1 / 10e9),
    "NVLink 4 (3.4 µs, 450 GB/s)": Link(3.4e-6, 1 / 450e9),
    "InfiniBand (14 µs, 50 GB/s)": Link(14e-6, 1 / 50e9),
    "Ethernet (50 µs, 1.25 GB/s)": Link(50e-6, 1 / 1.25e9),
    "two cities (20 ms, 0.125 GB/s)": Link(20e-3, 1 / 0.125e9),
}


def size_text(size_bytes: float) -> str:
    """A size in bytes as people write it.

    Example:
        >>> [size_text(s) for s in (512, 64e3, 2.5e6, 14e9)]
        ['512 B', '64 kB', '2.5 MB', '14 GB']
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.3g} {unit}"
    return f"{size_bytes:.3g} B"


@dataclass(frozen=True)
class AlgorithmMap:
    """The fastest of some algorithms at every number of ranks and every size, on flat networks.

    Fields:
        networks: Name → link; the names are the values for ``companion.explore.frames``.
        most_ranks: The map goes from 2 to this P.
        ranks: The P of the panel with times.
        sizes_bytes: Smallest and largest S.
        algorithms: Which to compare; where two are equal, the first is taken.

    Example:
        >>> best = AlgorithmMap(most_ranks=8).winners("InfiniBand (14 µs, 50 GB/s)", [1e3, 1e9])
        >>> best.tolist()  # rows: sizes; columns: P = 2 … 8; entries: places in ``algorithms``
        [[0, 0, 2, 2, 2, 2, 2], [0, 0, 2, 0, 0, 0, 2]]
    """

    networks: Mapping[str, Link] = field(default_factory=lambda: NETWORKS)
    most_ranks: int = 40
    ranks: int = 24
    sizes_bytes: tuple[float, float] = (1e2, 1e10)
    algorithms: Sequence[Algorithm] = CANDIDATES

    @property
    def values(self) -> list[str]:
        """Names of the networks."""
        return list(self.networks)

    def costs(self, network: str, ranks: int, sizes_bytes: Sequence[float]) -> np.ndarray:
        """Seconds of each algorithm (rows) at each size (columns)."""
        alpha_s, beta = self.networks[network]
        model = {"ranks": ranks, "alpha_s": alpha_s, "beta_s_per_byte": beta}
        sizes = np.asarray(sizes_bytes, float)
        return np.array([collective_cost(a, bytes=sizes, **model) for a in self.algorithms])

    def winners(self, network: str, sizes_bytes: Sequence[float]) -> np.ndarray:
        """Place of the fastest algorithm at each size (rows) for P = 2 … ``most_ranks``."""
        columns = []
        for ranks in range(2, self.most_ranks + 1):
            columns.append(_places(self.costs(network, ranks, sizes_bytes)))
        return np.stack(columns, axis=1)

    def draw(self, network: str) -> Figure:
        """Left: who wins at each P and S. Right: the times at one P."""
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.3), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
        self._draw_map(left, network)
        self._draw_times(right, network)
        return figure

    def describe(self, network: str) -> str:
        """What the frame shows, in words."""
        sizes = np.geomspace(*self.sizes_bytes, 161)
        winners = self.winners(network, sizes)
        shares = [f"{name} {np.mean(winners == i):.0%}" for i, name in enumerate(self.algorithms)]
        column = self._runs(network, sizes)
        first = self.algorithms[column[0][0]]
        later = [
            f"{self.algorithms[place]} from {size_text(float(f'{sizes[start]:.2g}'))}"
            for place, start, _ in column[1:]
        ]
        return (
            f"Left, the fastest algorithm over 2 to {self.most_ranks} ranks and "
            f"{size_text(self.sizes_bytes[0])} to {size_text(self.sizes_bytes[1])}; shares of the "
            f"map: {', '.join(shares)}. Right, times at {self.ranks} ranks; the fastest is "
            f"{', '.join([f'{first} for the smallest tensors', *later])}."
        )

    def _runs(self, network: str, sizes: np.ndarray) -> list[tuple[int, int, int]]:
        """At P = ``ranks``: (place of the fastest, first and last index) of each run of sizes."""
        column = _places(self.costs(network, self.ranks, sizes))
        cuts = [0, *(np.flatnonzero(np.diff(column)) + 1).tolist(), len(column)]
        return [(int(column[a]), a, b - 1) for a, b in pairwise(cuts)]

    def _draw_map(self, axes: Axes, network: str) -> None:
        low, high = np.log10(self.sizes_bytes)
        sizes = np.logspace(low, high, 161)
        colors = ListedColormap(PALETTE[: len(self.algorithms)])
        axes.imshow(
            self.winners(network, sizes),
            origin="lower",
            aspect="auto",
            extent=(1.5, self.most_ranks + 0.5, low, high),
            cmap=colors,
            vmin=-0.5,
            vmax=len(self.algorithms) - 0.5,
            alpha=0.8,
            interpolation="nearest",
        )
        powers = 2 ** np.arange(1, self.most_ranks.bit_length())
        axes.set_xticks(powers)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: size_text(10**y)))
        axes.axvline(self.ranks, color="black", ls=":", lw=1)
        for place, start, end in self._runs(network, sizes):  # names: not by colour alone
            if end - start > 12:
                middle = np.log10(sizes[(start + end) // 2])
                name = self.algorithms[place].replace("_", "\n")
                axes.text(self.ranks, middle, name, ha="center", va="center", bbox=_LABEL)
        axes.set(xlabel="ranks P", ylabel="size S of the tensor", title="fastest")

    def _draw_times(self, axes: Axes, network: str) -> None:
        sizes = np.geomspace(*self.sizes_bytes, 60)
        rows = self.costs(network, self.ranks, sizes)
        for index, (name, seconds) in enumerate(zip(self.algorithms, rows, strict=True)):
            axes.plot(
                sizes,
                1e3 * seconds,
                color=PALETTE[index],
                ls=STYLES[index % len(STYLES)],
                label=name.replace("_", " "),
            )
        axes.set(xscale="log", yscale="log", xlabel="size S (bytes)", ylabel="time (ms)")
        axes.set_title(f"P = {self.ranks}")
        axes.legend(frameon=False, fontsize="small")


def _places(costs: np.ndarray) -> np.ndarray:
    """Row of the least cost in each column.

    Sums in another order differ in the last bits: such ties go to the first row as well.
    """
    return (costs <= costs.min(axis=0) * (1 + 1e-12)).argmax(axis=0)
