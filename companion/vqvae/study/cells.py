"""Codebooks that learn points of the plane, kept as frames.

Chapter: course/03_vqvae.ipynb.  Dimension key: N points, K codes.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from companion.checks import typed
from companion.vqvae.codebook_use import perplexity, usage
from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.nearest import nearest_code
from companion.vqvae.study.figures import draw_cells

__all__ = ["CellTraining"]


class CellTraining:
    """Several codebooks that see the same batches of points, looked at after some of them.

    Fields:
        values: The steps, for ``companion.explore.frames``.

    Args:
        quantizers: By name; they are trained.
        points: What they learn, in the unit square.
        values: After which steps to look, rising.
        labels: Of the two axes.
        batch_size: Points a step.
        generator: Source of the batches.

    Example:
        >>> points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
        >>> plain = EMAVectorQuantizer(4, 2, generator=torch.Generator().manual_seed(0))
        >>> training = CellTraining({"plain": plain}, points, [0, 5], labels=("a", "b"))
        >>> sorted(training.codes(5)), training.codes(5)["plain"].shape
        (['plain'], torch.Size([4, 2]))
    """

    @typed
    def __init__(
        self,
        quantizers: Mapping[str, EMAVectorQuantizer],
        points: Float[Tensor, "N 2"],
        values: Sequence[int],
        *,
        labels: tuple[str, str],
        batch_size: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        self.values, self._points, self._labels = list(values), points, labels
        self._codes: dict[int, dict[str, Tensor]] = {}
        for step in range(max(self.values) + 1):
            if step in self.values:
                self._codes[step] = {
                    name: quantizer.codebook.clone() for name, quantizer in quantizers.items()
                }
            if step == max(self.values):
                break
            batch = points[torch.randint(len(points), (batch_size,), generator=generator)]
            for quantizer in quantizers.values():
                quantizer.train()(batch)

    def codes(self, step: int) -> dict[str, Float[Tensor, "K 2"]]:
        """Each codebook after that many steps."""
        return self._codes[step]

    def use(self, step: int) -> dict[str, tuple[float, float, float]]:
        """Share of codes in use, perplexity and mean squared error of each, on all points."""
        found = {}
        for name, codes in self.codes(step).items():
            indices = nearest_code(self._points, codes)
            error = (self._points - codes[indices]).square().mean().item()
            in_use = usage(indices, len(codes)).item(), perplexity(indices, len(codes)).item()
            found[name] = (*in_use, error)
        return found

    def draw(self, step: int) -> Figure:
        """One panel for each codebook."""
        use = self.use(step)
        panels = {
            f"{name}: {round(use[name][0] * len(codes))} of {len(codes)} codes in use": codes
            for name, codes in self.codes(step).items()
        }
        return draw_cells(panels, self._points, labels=self._labels)

    def describe(self, step: int) -> str:
        """What the frame shows, in words."""
        parts = [
            f"{name} uses {share:.0%} of its codes, mean squared error {error:.4f}"
            for name, (share, _, error) in self.use(step).items()
        ]
        return f"After {step} batches: {'; '.join(parts)}."
