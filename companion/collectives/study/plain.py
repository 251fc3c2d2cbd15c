"""The ring and the training loop over real ranks at their simplest; the chapter prints them.

No headers, no timeouts, no segments: what ``companion.collectives`` adds to them.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from companion.collectives.ring import ring_all_reduce
from companion.collectives.study.networks import network
from companion.data import digits

__all__ = ["batches", "plain_ring", "train_digits_by_hand"]


def plain_ring(rank: int, ranks: int, tensors: Sequence[Tensor]) -> Tensor:
    """This rank's sum of all ranks' tensors; rank r brings ``tensors[r]``."""
    chunks = list(tensors[rank].tensor_split(ranks))
    right, left = (rank + 1) % ranks, (rank - 1) % ranks
    for step in range(1, 2 * ranks - 1):
        incoming = (rank - 1 - step) % ranks
        came = torch.empty_like(chunks[incoming])
        sending = distributed.isend(chunks[(rank - step) % ranks].contiguous(), right)
        distributed.recv(came, left)
        sending.wait()
        chunks[incoming] = chunks[incoming] + came if step < ranks else came
    return torch.cat(chunks)


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches of 120 on every rank: pixels in float64, shape (120, 64), and digits."""
    images, labels = digits()
    pixels = images.flatten(1).double()
    generator = torch.Generator().manual_seed(11)
    for _ in range(steps):
        batch = torch.randperm(1500, generator=generator)[:120]
        yield pixels[batch], labels[batch]


def train_digits_by_hand(rank: int, ranks: int, steps: int) -> Tensor:
    """All weights after training, each rank on its part of every batch."""
    model = network(64, 32, 10).double()  # the same weights on every rank
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for pixels, labels in batches(steps):
        optimizer.zero_grad()
        mine = slice(rank, None, ranks)
        F.cross_entropy(model(pixels[mine]), labels[mine]).backward()
        for parameter in model.parameters():
            ring_all_reduce(parameter.grad, op="mean")
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()
