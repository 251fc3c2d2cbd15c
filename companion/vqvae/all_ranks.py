"""One batch over all ranks of a process group: its sum for each code, and vectors drawn from it.

Ranks may hold different numbers of vectors, or none; each gets the same bits. Without a group the
batch is what this process has. Every rank must call these together.
Chapter: course/03_vqvae.ipynb.  Dimension key: B vectors of this rank, K codes, D width of a code.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed

from companion.training.process_group import rank_and_ranks

__all__ = ["draw_vectors", "has_length", "sizes", "sums_and_counts"]


def has_length(z_BD: Float[Tensor, "B D"]) -> Bool[Tensor, " B"]:
    """Whether a vector's squared length is a finite number: if not, no code is nearest to it."""
    return z_BD.square().sum(1).isfinite()


def sums_and_counts(
    z_BD: Float[Tensor, "B D"], indices_B: Int[Tensor, " B"], num_codes: int
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """Sum of the vectors with each code, and how many they are; one all-reduce for both.

    Vectors with NaN or infinity are left out, without asking the device whether there are any.
    """
    dim = z_BD.shape[1]
    packed = z_BD.new_zeros((num_codes + 1) * (dim + 1))
    counts, sums = packed[: num_codes + 1], packed[num_codes + 1 :].view(-1, dim)
    # A spare row takes those that are left out: cheaper than to copy the others.
    row_B = torch.where(has_length(z_BD), indices_B, num_codes)
    counts.index_add_(0, row_B, z_BD.new_ones(len(z_BD)))
    sums.index_add_(0, row_B, z_BD)
    if rank_and_ranks()[1] > 1:
        distributed.all_reduce(packed)
    return sums[:-1], counts[:-1]


def draw_vectors(
    z_BD: Float[Tensor, "B D"], count: int, generator: torch.Generator | None
) -> Float[Tensor, "count D"]:
    """Vectors of the whole batch, drawn by rank 0's generator and the same on every rank.

    None is drawn twice before all are drawn once; vectors with NaN or infinity are not drawn.
    Without a single vector the result has no row.
    """
    of_rank, (rank, ranks) = sizes(z_BD), rank_and_ranks()
    total, first = sum(of_rank), sum(of_rank[:rank])
    z_BD = z_BD[has_length(z_BD)]
    if total == 0:
        return z_BD
    device = z_BD.device if generator is None else generator.device
    order = torch.randperm(total, generator=generator, device=device).to(z_BD.device)
    drawn = order[torch.arange(count, device=z_BD.device) % total]
    if ranks == 1:
        return z_BD[drawn]
    distributed.broadcast(drawn, 0)
    # A row comes from one rank alone, so that the sum adds zeros to it and rounds nothing.
    rows = z_BD.new_zeros(count, z_BD.shape[1])
    mine = (first <= drawn) & (drawn < first + len(z_BD))
    rows[mine] = z_BD[drawn[mine] - first]
    distributed.all_reduce(rows)
    return rows


def sizes(z_BD: Float[Tensor, "B D"]) -> list[int]:
    """How many vectors each rank has, without those that have NaN or infinity."""
    own = has_length(z_BD).sum()[None]
    ranks = rank_and_ranks()[1]
    if ranks == 1:
        return own.tolist()
    of_rank = [torch.empty_like(own) for _ in range(ranks)]
    distributed.all_gather(of_rank, own)
    return torch.cat(of_rank).tolist()
