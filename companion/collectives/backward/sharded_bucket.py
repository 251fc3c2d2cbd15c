"""Parameters laid end to end and cut into P equal parts, one for each rank to update.

    weights  = [ w_0 | w_1 | … | 0 ]            the parameters are views of this row
             = [ part 0 | part 1 | … | part P−1 ]
    gradient:  reduce-scatter → part r → optimizer on rank r → all-gather → weights

A part ends anywhere, also inside a parameter; so the rank's optimizer holds *pieces*: the elements
of one parameter that lie in the rank's part. A piece without a gradient is skipped as a whole
parameter would be.

Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, §5.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from companion.collectives.backward.flat_parameters import dense_gradient, starts_of
from companion.collectives.ring_halves import ring_all_gather, ring_reduce_scatter

__all__ = ["Piece", "ShardedBucket"]


class Piece(NamedTuple):
    """Elements ``start`` … ``stop`` − 1 of a parameter, which this rank updates."""

    parameter: nn.Parameter
    start: int
    stop: int
    weights: nn.Parameter
    place: slice  # in this rank's part


class ShardedBucket:
    """Parameters of one dtype, of which this rank updates one part in P.

    Args:
        parameters: Their data is moved into one row.
        master_dtype: Of this rank's own copy of its part; None updates the weights themselves.
        group: None is the default group.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        master_dtype: torch.dtype | None,
        group: ProcessGroup | None,
    ) -> None:
        self.parameters = parameters
        self._group = group
        ranks, rank = distributed.get_world_size(group), distributed.get_rank(group)
        starts = starts_of(parameters)
        self._start_of = dict(zip(parameters, starts, strict=False))
        self._part_length = math.ceil(starts[-1] / ranks)
        first = rank * self._part_length
        self._weights = _moved_together(parameters, length=ranks * self._part_length)
        self._part = self._weights[first : first + self._part_length]
        if master_dtype is not None:
            self._part = self._part.to(master_dtype, copy=True)
        self.pieces = list(self._cut(first, first + self._part_length))
        self._gradients: Tensor | None = None  # of the whole row, before it is reduced
        self._gradient_part: Tensor | None = None
        self._taken: set[nn.Parameter] = set()

    def _cut(self, first: int, last: int) -> Iterator[Piece]:
        for parameter, begin in self._start_of.items():
            start, stop = max(first, begin), min(last, begin + parameter.numel())
            if start < stop:
                place = slice(start - first, stop - first)
                weights = nn.Parameter(self._part[place], requires_grad=False)
                yield Piece(parameter, start - begin, stop - begin, weights, place)

    def take(self, parameter: nn.Parameter) -> None:
        """Copy a gradient into the row."""
        if self._gradients is None:
            self._gradients = torch.zeros_like(self._weights)
        start = self._start_of[parameter]
        place = self._gradients[start : start + parameter.numel()]
        place.view(parameter.shape).copy_(dense_gradient(parameter))
        self._taken.add(parameter)

    def close(self) -> None:
        """What was not taken counts as zero."""
        if self._gradients is None:
            self._gradients = torch.zeros_like(self._weights)

    @torch.no_grad()
    def reduce(self) -> None:
        """Average the row over the ranks, add this rank's part to what it holds, drop the row."""
        part = ring_reduce_scatter(self._gradients, op="mean", group=self._group)
        self._gradients = None
        if self._gradient_part is None:
            self._gradient_part = part
        else:
            self._gradient_part += part

    def finish(self) -> None:
        """Nothing is left to do when backward ends."""

    @property
    def taken(self) -> Collection[nn.Parameter]:
        """Parameters of which this rank had a gradient since ``clear_gradients``."""
        return self._taken

    def give_gradients(self, used: Collection[nn.Parameter]) -> None:
        """Hand the averaged gradients to the pieces; those of unused parameters have none."""
        for piece in self.pieces:
            piece.weights.grad = None
            if piece.parameter in used:
                gradient = self._gradient_part[piece.place]
                piece.weights.grad = gradient.to(piece.weights.dtype)

    def clear_gradients(self) -> None:
        """Drop this rank's part of the gradients."""
        for piece in self.pieces:
            piece.weights.grad = None
        self._gradient_part = None
        self._taken.clear()

    @torch.no_grad()
    def gather(self) -> None:
        """Take the updated parts of all ranks."""
        part = self._part.to(self._weights.dtype)
        self._weights.copy_(ring_all_gather(part, group=self._group))
        for parameter in self.parameters:  # as an in-place update would, for autograd's check
            torch.autograd.graph.increment_version(parameter)

    @torch.no_grad()
    def copy_master(self) -> None:
        """Let this rank's own copy be what the weights are."""
        for piece in self.pieces:
            piece.weights.copy_(piece.parameter.detach().reshape(-1)[piece.start : piece.stop])

    def check_in_place(self) -> None:
        """Make sure that the parameters still are views of the row.

        Raises:
            RuntimeError: If somebody gave one of them other memory.
        """
        size = self._weights.element_size()
        for parameter, start in self._start_of.items():
            there = self._weights.data_ptr() + start * size
            if parameter.numel() and parameter.data_ptr() != there:
                raise RuntimeError(
                    f"expected the parameter of shape {tuple(parameter.shape)} where ZeroOptimizer "
                    "put it, but its data was replaced: convert or move the module before"
                )

    @property
    def gradient_part_bytes(self) -> int:
        """Bytes of averaged gradients that this rank holds."""
        return 0 if self._gradient_part is None else self._gradient_part.nbytes

    @property
    def master_bytes(self) -> int:
        """Bytes of this rank's own copy of its part; 0 without one."""
        own = self._part.untyped_storage().data_ptr()
        return 0 if own == self._weights.untyped_storage().data_ptr() else self._part.nbytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of the whole row."""
        return self._weights.nbytes


@torch.no_grad()
def _moved_together(parameters: Sequence[nn.Parameter], *, length: int) -> Tensor:
    """The parameters' values in one row, padded with zeros; their data become views of it."""
    weights = parameters[0].detach().new_zeros(length)
    for parameter, start in zip(parameters, starts_of(parameters), strict=False):
        place = weights[start : start + parameter.numel()].view(parameter.shape)
        place.copy_(parameter)
        parameter.data = place
    return weights
