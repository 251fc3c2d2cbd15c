"""What the ranks of one launch do for the tests of the codebook that all of them share."""

import pickle

import torch

from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.kmeans import kmeans

K, D = 7, 3
OPTIONS = {"decay": 0.7, "revive_below": 1.5}
# Vectors of each rank at each step; one has none at times, once all have.
SIZES = {
    "uneven": [(11, 4, 2), (7, 12, 3), (1, 9, 6)],
    "empty": [(0, 15, 4), (13, 0, 1), (0, 0, 0), (2, 3, 0)],
}


def batches(name):
    """Each step's vectors, of all ranks; one of them is not finite."""
    generator = torch.Generator().manual_seed(len(name))
    steps = []
    for sizes in SIZES[name]:
        z = torch.randn(sum(sizes), D, generator=generator)
        z[5:6, 1] = torch.nan
        steps.append(z.split(list(sizes)))
    return steps


def quantizer(kmeans_start, seed):
    """The same codes everywhere; the draws are another matter."""
    made = EMAVectorQuantizer(
        K,
        D,
        kmeans_start=kmeans_start,
        generator=torch.Generator().manual_seed(5),
        **OPTIONS,
    )
    made.generator = None if seed is None else torch.Generator().manual_seed(seed)
    return made


def states(made, steps):
    """The buffers after each step, and the losses."""
    for z in steps:
        loss = made(z).loss
        yield {name: value.clone() for name, value in made.state_dict().items()} | {"loss": loss}


def cases(rank, world_size):
    torch.set_num_threads(1)
    torch.manual_seed(20 + rank)
    results = {}
    for name in SIZES:
        mine = [parts[rank] for parts in batches(name)]
        for start in (False, True):
            results[name, start] = list(states(quantizer(start, 30 + rank), mine))
    mine = [parts[rank] for parts in batches("uneven")]
    results["global"] = list(states(quantizer(True, None), mine))
    results["kmeans"] = kmeans(mine[0], 3, generator=torch.Generator().manual_seed(rank))
    return pickle.dumps(results)  # tensors by value
