"""Ranks whose tensors lie on one GPU, over NCCL, over gloo, and over both at once."""

import os

import torch
from torch import distributed

from companion.collectives import check
from companion.collectives.ring import ring_all_reduce
from companion.collectives.ring_halves import ring_all_gather, ring_reduce_scatter
from tests.collectives.ranks_p2p_group import ALL, error_of

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int16)


def everything(rank, size, folder, backend):
    # NCCL refuses two ranks on one GPU of one host; told that they are on two hosts, it takes them.
    os.environ["NCCL_HOSTID"] = f"host {rank}"
    os.environ["NCCL_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = distributed.FileStore(f"{folder}/{backend.replace(':', ' ')}", size)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        return {
            "wrong": wrong_sums(rank, size),
            "cpu": ring_all_reduce(torch.full((7,), rank)).tolist(),
            "mismatch": error_of(lambda: ring_all_reduce(torch.ones(5 + (rank == 1)).cuda())),
            "async": overlapped(rank),
            "gathered": gathered(rank),
            "check": [row.is_right for row in check.check_collectives([40_004], device="cuda")],
        }
    finally:
        distributed.destroy_process_group()


def wrong_sums(rank, size):
    """(algorithm, dtype) of all sums of small integers, exact in any dtype, that came out wrong."""
    wrong = []
    for name, algorithm in ALL.items():
        for dtype in DTYPES:
            base = (torch.arange(1003) % 17).to(dtype).cuda()
            contiguous, strided = base * (rank + 1), (base * (rank + 1))[::3]
            expected = base * (size * (size + 1) // 2)
            algorithm(contiguous)
            algorithm(strided)
            if not (torch.equal(contiguous, expected) and torch.equal(strided, expected[::3])):
                wrong.append((name, str(dtype)))
    return wrong


def overlapped(rank):
    """Work queued before, during and after an asynchronous call, in the order that was meant."""
    results = []
    for _ in range(5):
        a = torch.ones(2048, 2048, device="cuda")
        for _ in range(20):
            a = (a @ a).clamp_(max=1.0)  # some time, then all ones
        x = a.view(-1)[: 10**6] * (rank + 1)
        handle = ring_all_reduce(x, async_op=True)
        b = a @ a
        total = handle.wait()
        results.append((total * 2).unique().tolist() + b[0, :1].tolist())
    return results


def gathered(rank):
    flat = torch.arange(10.0, device="cuda") * (rank + 1)
    chunk = ring_reduce_scatter(flat)
    rows = ring_all_gather(torch.full((rank, 2), rank, device="cuda"))
    return ring_all_gather(chunk).tolist(), rows.tolist(), chunk.is_cuda and rows.is_cuda
