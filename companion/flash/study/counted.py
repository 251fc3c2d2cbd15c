"""Three ways to compute attention, run on a memory that counts what is read and written.

Each is written as the papers write it: nothing is used that was not loaded, and nothing leaves
that is not stored. What they count is what ``companion.flash.study.cost.hbm_bytes`` computes.

Chapter: course/09_flash.ipynb.  Dimension key: N tokens, D head width, I and J rows of a tile.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from companion.flash.online import merge_normalisers
from companion.flash.study.cost import ALGORITHMS, Algorithm, tile_sizes

__all__ = ["CountedRun", "Memory", "counted_attention"]


class Memory:
    """The large, slow memory (HBM): tensors that are used only through ``load`` and ``store``.

    Fields:
        read_bytes, written_bytes: What was loaded and stored so far.

    Example:
        >>> memory = Memory()
        >>> tile = memory.load(torch.ones(5, 3)[:2])
        >>> memory.read_bytes, memory.written_bytes
        (24, 0)
    """

    def __init__(self) -> None:
        self.read_bytes = 0
        self.written_bytes = 0

    def allocate(self, *shape: int, like: Tensor) -> Tensor:
        """Room that holds NaN until it is stored to, so that an unwritten part shows."""
        return like.new_full(shape, math.nan)

    def load(self, part: Tensor) -> Tensor:
        """A copy in the fast memory."""
        self.read_bytes += part.nbytes
        return part.clone()

    def store(self, part: Tensor, value: Tensor) -> None:
        """Write back; ``part`` is a view of the tensor that is written."""
        self.written_bytes += part.nbytes
        part.copy_(value.expand_as(part))


class CountedRun(NamedTuple):
    """What an algorithm computed, and what it moved to compute it."""

    out: Float[Tensor, "N D"]
    read_bytes: int
    written_bytes: int

    @property
    def hbm_bytes(self) -> int:
        """Read and written."""
        return self.read_bytes + self.written_bytes


def counted_attention(
    q: Float[Tensor, "N D"],
    k: Float[Tensor, "N D"],
    v: Float[Tensor, "N D"],
    *,
    sram_bytes: int,
    algorithm: Algorithm,
) -> CountedRun:
    """softmax(Q Kᵀ / √D) V of one head, by one of three algorithms, with its traffic.

    Args:
        q, k, v: Of one shape and dtype; every query sees every key.
        sram_bytes: Size of the fast memory, from which the tile sizes follow.
        algorithm: "naive", "tiled" or "flash"; see ``companion.flash.study.cost.hbm_bytes``.

    Raises:
        ValueError: The shapes differ or are not (N, D), the fast memory is too small, or the
            algorithm is unknown.

    Example:
        >>> x = torch.eye(64, 16)
        >>> for algorithm in ("naive", "flash", "tiled"):
        ...     run = counted_attention(x, x, x, sram_bytes=2048, algorithm=algorithm)
        ...     print(f"{algorithm:5} read {run.read_bytes:6}  written {run.written_bytes:6}")
        naive read  45056  written  36864
        flash read  77824  written  41472
        tiled read  69632  written   4352
    """
    if algorithm not in _RUNS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    if q.ndim != 2 or not q.shape == k.shape == v.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k, v must have one shape (N, D), got {shapes}")
    tiles = tile_sizes(*q.shape, sram_bytes=sram_bytes, element_bytes=q.element_size())
    memory = Memory()
    out = _RUNS[algorithm](memory, q, k, v, *tiles)
    return CountedRun(out, memory.read_bytes, memory.written_bytes)


def _naive(memory: Memory, q: Tensor, k: Tensor, v: Tensor, _outer: int, _inner: int) -> Tensor:
    """Dao et al. 2022, algorithm 0: scores, weights and output, each a trip through memory."""
    n, d = q.shape
    scores, weights = (memory.allocate(n, n, like=q) for _ in range(2))
    out = memory.allocate(n, d, like=q)
    memory.store(scores, memory.load(q) @ memory.load(k).T / math.sqrt(d))
    memory.store(weights, memory.load(scores).softmax(dim=1))
    memory.store(out, memory.load(weights) @ memory.load(v))
    return out


def _flash(memory: Memory, q: Tensor, k: Tensor, v: Tensor, outer: int, inner: int) -> Tensor:
    """Dao et al. 2022, algorithm 1: key tiles outside; O, ℓ (our d) and m come back each time."""
    n, d = q.shape
    out, total, top = (memory.allocate(n, w, like=q) for w in (d, 1, 1))
    for tensor, start in ((out, 0.0), (total, 0.0), (top, -math.inf)):
        memory.store(tensor, q.new_tensor(start))
    for keys in _tiles(n, outer):
        k_JD, v_JD = memory.load(k[keys]), memory.load(v[keys])
        for queries in _tiles(n, inner):
            scores_IJ = memory.load(q[queries]) @ k_JD.T / math.sqrt(d)
            out_ID = memory.load(out[queries])
            total_I1, top_I1 = memory.load(total[queries]), memory.load(top[queries])
            tile_top_I1 = scores_IJ.amax(dim=1, keepdim=True)
            weights_IJ = torch.exp(scores_IJ - tile_top_I1)
            tile_total_I1 = weights_IJ.sum(dim=1, keepdim=True)
            new_top_I1, new_total_I1 = merge_normalisers(
                (top_I1, total_I1), (tile_top_I1, tile_total_I1)
            )
            # What O lacks: it was divided by the old total, and its weights by the old maximum.
            kept_ID = out_ID * total_I1 * torch.exp(top_I1 - new_top_I1)
            added_ID = weights_IJ @ v_JD * torch.exp(tile_top_I1 - new_top_I1)
            memory.store(out[queries], (kept_ID + added_ID) / new_total_I1)
            memory.store(total[queries], new_total_I1)
            memory.store(top[queries], new_top_I1)
    return out


def _tiled(memory: Memory, q: Tensor, k: Tensor, v: Tensor, outer: int, inner: int) -> Tensor:
    """Dao 2023, algorithm 1: query tiles outside; O stays near, and is divided once, at the end."""
    n, d = q.shape
    out, lse = (memory.allocate(n, w, like=q) for w in (d, 1))
    for queries in _tiles(n, outer):
        q_ID = memory.load(q[queries])
        out_ID, total_I1 = torch.zeros_like(q_ID), torch.zeros_like(q_ID[:, :1])
        top_I1 = torch.full_like(total_I1, -math.inf)
        for keys in _tiles(n, inner):
            scores_IJ = q_ID @ memory.load(k[keys]).T / math.sqrt(d)
            new_top_I1 = torch.maximum(top_I1, scores_IJ.amax(dim=1, keepdim=True))
            rescale_I1 = torch.exp(top_I1 - new_top_I1)
            weights_IJ = torch.exp(scores_IJ - new_top_I1)
            total_I1 = total_I1 * rescale_I1 + weights_IJ.sum(dim=1, keepdim=True)
            out_ID = out_ID * rescale_I1 + weights_IJ @ memory.load(v[keys])
            top_I1 = new_top_I1
        memory.store(out[queries], out_ID / total_I1)
        memory.store(lse[queries], top_I1 + total_I1.log())
    return out


_RUNS: dict[str, Callable[..., Tensor]] = {"naive": _naive, "flash": _flash, "tiled": _tiled}


def _tiles(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
