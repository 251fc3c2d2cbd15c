"""Does this cluster add up, and how fast? Every all-reduce against the backend's own.

    torchrun --nproc-per-node 2 -m companion.collectives.check
    torchrun --nnodes 2 … -m companion.collectives.check --sizes 1024 67108864 --backend nccl

For each algorithm and size: whether all ranks hold the same bits, close to the backend's own
result, the best time, and busbw = S/t · 2(P−1)/P, which is comparable over all P.

Source: busbw as in nccl-tests, doc/PERFORMANCE.md.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from companion.collectives.halving_doubling import halving_doubling_all_reduce
from companion.collectives.hierarchical import hierarchical_all_reduce
from companion.collectives.parameter_server import parameter_server_all_reduce
from companion.collectives.ring import ring_all_reduce
from companion.collectives.ring_halves import ring_all_gather
from companion.collectives.tree import tree_all_reduce

__all__ = ["ALGORITHMS", "CheckRow", "check_collectives", "main"]

ALGORITHMS: dict[str, Callable[[Tensor], object]] = {
    "backend": distributed.all_reduce,
    "ring": ring_all_reduce,
    "tree": tree_all_reduce,
    "halving_doubling": halving_doubling_all_reduce,
    "parameter_server": parameter_server_all_reduce,
    "hierarchical": hierarchical_all_reduce,
}


class CheckRow(NamedTuple):
    """One algorithm at one size.

    Attributes:
        algorithm: Its name; "backend" is the backend's own.
        size_bytes: S.
        is_right: The same bits on all ranks, within the bound of the summation order.
        time_ms: The best of the repeats, on the slowest rank.
        busbw_gbps: S/t · 2(P−1)/P, in GB/s.
    """

    algorithm: str
    size_bytes: int
    is_right: bool
    time_ms: float
    busbw_gbps: float


def check_collectives(
    sizes_bytes: Sequence[int], *, device: torch.device | str = "cpu", repeats: int = 5
) -> list[CheckRow]:
    """Run every algorithm on the default group; all ranks call this.

    Args:
        sizes_bytes: S, of float32 tensors; rounded down to a multiple of 4.
        device: Where the tensors lie.
        repeats: Timed runs, >= 1, of which the best counts.

    Returns:
        One row per size and algorithm, the same on all ranks.

    Raises:
        PeerLost: If a rank dies or does not answer.
        ValueError: If ``repeats`` or a size is out of its range.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be >= 1, got {repeats}")
    if min(sizes_bytes) < 4:
        raise ValueError(f"sizes must be >= 4 bytes, got {min(sizes_bytes)}")
    rows = []
    for size_bytes in sizes_bytes:
        for name, algorithm in ALGORITHMS.items():
            is_right = _is_right(algorithm, size_bytes // 4, device)
            time_s = _best_time_s(algorithm, size_bytes // 4, device, repeats)
            ranks = distributed.get_world_size()
            busbw_gbps = size_bytes / time_s * 2 * (ranks - 1) / ranks / 1e9
            rows.append(CheckRow(name, size_bytes, is_right, time_s * 1e3, busbw_gbps))
    return rows


def _is_right(algorithm: Callable, n: int, device: torch.device | str) -> bool:
    """The bits of all ranks are one, and near the backend's: 2(P−1)·(eps/2)·Σ|x| is the bound."""
    ranks, rank = distributed.get_world_size(), distributed.get_rank()
    generator = torch.Generator().manual_seed(rank)
    ours = torch.randn(n, generator=generator).to(device)
    theirs, magnitude = ours.clone(), ours.abs()
    algorithm(ours)
    distributed.all_reduce(theirs)
    distributed.all_reduce(magnitude)
    bound = (ranks - 1) * torch.finfo(torch.float32).eps * magnitude
    is_near = bool(((ours - theirs).abs() <= bound).all())
    # Sums of the bits taken as integers: exact, and any flipped bit changes the first one.
    bits = ours.view(torch.int32).long()
    places = torch.arange(n, device=ours.device) % 2**31
    digest = torch.stack([bits.sum(), (bits * places).sum(), torch.tensor(is_near).to(bits)])
    digests = ring_all_gather(digest[None])
    return bool((digests[:, :2] == digests[0, :2]).all() and digests[:, 2].all())


def _best_time_s(algorithm: Callable, n: int, device: torch.device | str, repeats: int) -> float:
    tensor = torch.zeros(n, device=device)
    times_s = []
    for _ in range(repeats + 1):
        distributed.barrier()
        start = time.perf_counter()
        algorithm(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
        times_s.append(time.perf_counter() - start)
    slowest = torch.tensor(times_s[1:], dtype=torch.float64, device=device)  # the first warms up
    distributed.all_reduce(slowest, distributed.ReduceOp.MAX)
    return float(slowest.min())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run under torchrun; rank 0 prints the table. Returns the exit code: 0 if all is right."""
    parser = argparse.ArgumentParser(description="Check every all-reduce on this cluster.")
    parser.add_argument("--backend", default="nccl" if torch.cuda.is_available() else "gloo")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2**12, 2**20, 2**25])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    distributed.init_process_group(options.backend)
    try:
        device = torch.device("cpu")
        if options.backend == "nccl":
            device = torch.device("cuda", distributed.get_node_local_rank())
            torch.cuda.set_device(device)
        rows = check_collectives(options.sizes, device=device, repeats=options.repeats)
        if distributed.get_rank() == 0:
            _print(rows, distributed.get_world_size(), options.backend)
        return 0 if all(row.is_right for row in rows) else 1
    finally:
        distributed.destroy_process_group()


def _print(rows: Sequence[CheckRow], ranks: int, backend: str) -> None:
    print(f"{ranks} ranks on {backend}")
    print(f"{'algorithm':<18}{'size_bytes':>12}{'':>8}{'time_ms':>10}{'busbw_GB/s':>12}")
    for row in rows:
        verdict = "ok" if row.is_right else "WRONG"
        print(
            f"{row.algorithm:<18}{row.size_bytes:>12}{verdict:>8}"
            f"{row.time_ms:>10.3f}{row.busbw_gbps:>12.3f}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
