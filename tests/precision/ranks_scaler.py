"""What the ranks of test_loss_scaler.py run."""

import math

import torch

from companion.precision import LossScaler


def steps_of_rank(rank, world_size, overflowing):
    """Per step whether this rank stepped, its scale and its weight; one rank overflows in each."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = LossScaler(init_scale=64.0, growth_interval=2)
    rows = []
    for overflows in overflowing:
        # A rank without any gradient takes part all the same.
        weight.grad = None if rank == 2 else torch.full((1,), scaler.value)
        if rank == overflows:
            weight.grad = torch.tensor([math.nan])
        stepped = scaler.step(optimizer)
        scaler.update()
        rows.append((stepped, scaler.value, weight.item()))
    return rows
