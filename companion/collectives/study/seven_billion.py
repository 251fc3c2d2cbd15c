"""How long the gradients of a 7B model take, from one host to 65,536 GPUs, by simulation.

Assumed: 7·10⁹ gradients of 2 bytes. Hosts of eight GPUs; inside them NVLink 4, 450 GB/s each way
and 3.4 µs a message; between them one card of 400 Gb/s (50 GB/s) for each GPU and 14 µs a message.
Adding costs nothing, no two hosts share a cable, nobody is late, and a message holds both its ends
for α + n·β. One ring, one tree: NCCL runs several of each side by side, to use all eight cards.

Source: links: NVIDIA DGX H100 user guide, §1; latencies: NCCL, src/graph/tuning.cc, protocol
"Simple". They are inputs of NCCL's own model, not our measurements.
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks, S bytes.
"""

from collections.abc import Sequence
from typing import NamedTuple

from companion.checks import typed
from companion.collectives.cost.coefficients import Algorithm
from companion.collectives.cost.simulation import simulate
from companion.collectives.cost.topology import Link, Topology

__all__ = ["BUCKET_BYTES", "GPU_HOSTS", "GRADIENT_BYTES", "ScalePoint", "all_reduce_at_scale"]

GRADIENT_BYTES = 7_000_000_000 * 2
BUCKET_BYTES = 25 * 2**20  # of PyTorch's DistributedDataParallel
GPU_HOSTS = Topology(
    inside=Link(3.4e-6, 1 / 450e9), between=Link(14e-6, 1 / 50e9), ranks_per_host=8
)
RANKS = tuple(2**k for k in range(3, 17))


class ScalePoint(NamedTuple):
    """One simulated call.

    Fields:
        algorithm: Its name.
        ranks: P.
        bytes: S.
        total_s: Its time.
    """

    algorithm: Algorithm
    ranks: int
    bytes: float
    total_s: float


@typed
def all_reduce_at_scale(
    bytes: float = GRADIENT_BYTES,
    *,
    ranks: Sequence[int] = RANKS,
    algorithms: Sequence[Algorithm] = ("ring", "hierarchical", "tree"),
    topology: Topology = GPU_HOSTS,
) -> list[ScalePoint]:
    """Simulated time of one all-reduce, for each algorithm and each number of ranks.

    Args:
        bytes: S; by default all gradients at once. ``BUCKET_BYTES`` is one bucket of them.
        ranks: Which P; for "hierarchical", multiples of the ranks of a host.
        algorithms: Which.
        topology: Hosts and links.

    Raises:
        TypeError, ValueError: As ``companion.collectives.cost.simulation.simulate``.

    Example:
        >>> rings = ["ring", "hierarchical"]
        >>> for point in all_reduce_at_scale(ranks=[8, 65_536], algorithms=rings):
        ...     print(f"{point.algorithm:12}  P = {point.ranks:6}: {point.total_s:.2f} s")
        ring          P =      8: 0.05 s
        ring          P =  65536: 2.39 s
        hierarchical  P =      8: 0.05 s
        hierarchical  P =  65536: 0.35 s
    """
    return [
        ScalePoint(name, p, bytes, simulate(name, ranks=p, bytes=bytes, topology=topology).total_s)
        for name in algorithms
        for p in ranks
    ]
