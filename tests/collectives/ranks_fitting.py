"""Rank functions of test_fitting.py: times of real all-reduces."""

import time

import torch
from torch import distributed

from companion.collectives.ring import ring_all_reduce


def gloo_all_reduce(tensor):
    distributed.all_reduce(tensor)


REDUCE = {"ring": ring_all_reduce, "gloo": gloo_all_reduce}


def times_of_rank(rank, ranks, name, sizes_bytes, rounds):
    """Per size the least seconds of ``rounds`` calls, sizes interleaved, over all ranks' maxima."""
    reduce = REDUCE[name]
    tensors = [torch.ones(size // 4) for size in sizes_bytes]
    for tensor in tensors:
        reduce(tensor)
    times = torch.zeros(rounds, len(tensors), dtype=torch.float64)
    for row in times:
        for index, tensor in enumerate(tensors):
            distributed.barrier()
            start = time.perf_counter()
            reduce(tensor)
            row[index] = time.perf_counter() - start
            tensor.fill_(1.0)
    distributed.all_reduce(times, op=distributed.ReduceOp.MAX)
    return times.tolist()
