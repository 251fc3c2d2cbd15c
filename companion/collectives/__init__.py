"""Collectives over point-to-point, and what they cost. Chapter: course/11_collectives.ipynb.

Read ``ring.py`` and ``ring_pipeline.py`` first: the ring as it is drawn, then in segments. What is
compared before anything moves: ``agreement.py``; what every algorithm stands on: ``wire``. The same
schedules without processes: ``cost``. Training: ``data_parallel.py``, ``zero.py``, over
``backward``. What mainly the chapter calls: ``study``.
"""

from companion.collectives.agreement import CollectiveMismatch
from companion.collectives.backward.buckets import assign_buckets
from companion.collectives.cost.bandwidth import algorithm_bandwidth, bus_bandwidth
from companion.collectives.cost.closed_forms import collective_cost, crossover_bytes, fastest
from companion.collectives.cost.coefficients import Coefficients, cost_coefficients
from companion.collectives.cost.fitting import fit_alpha_beta
from companion.collectives.cost.simulation import Trace, simulate
from companion.collectives.cost.topology import Link, Topology
from companion.collectives.cost.zero_memory import zero_memory_bytes
from companion.collectives.data_parallel import DataParallel
from companion.collectives.halving_doubling import halving_doubling_all_reduce
from companion.collectives.hierarchical import hierarchical_all_reduce
from companion.collectives.namespaces.network import Host, simulated_hosts
from companion.collectives.namespaces.runs import HostFailed, run_on_hosts
from companion.collectives.parameter_server import parameter_server_all_reduce
from companion.collectives.ring import ring_all_reduce
from companion.collectives.ring_halves import ring_all_gather, ring_reduce_scatter
from companion.collectives.shared_memory import shared_memory_all_reduce
from companion.collectives.study.overlap import (
    OverlapMeasurement,
    OverlapTime,
    measure_overlap,
    overlap_time,
)
from companion.collectives.study.ring_states import holds_invariant, ring_steps
from companion.collectives.study.seven_billion import all_reduce_at_scale
from companion.collectives.tree import tree_all_reduce
from companion.collectives.wire.peers import PeerLost
from companion.collectives.zero import ZeroMemory, ZeroOptimizer

__all__ = [
    "Coefficients",
    "CollectiveMismatch",
    "DataParallel",
    "Host",
    "HostFailed",
    "Link",
    "OverlapMeasurement",
    "OverlapTime",
    "PeerLost",
    "Topology",
    "Trace",
    "ZeroMemory",
    "ZeroOptimizer",
    "algorithm_bandwidth",
    "all_reduce_at_scale",
    "assign_buckets",
    "bus_bandwidth",
    "collective_cost",
    "cost_coefficients",
    "crossover_bytes",
    "fastest",
    "fit_alpha_beta",
    "halving_doubling_all_reduce",
    "hierarchical_all_reduce",
    "holds_invariant",
    "measure_overlap",
    "overlap_time",
    "parameter_server_all_reduce",
    "ring_all_gather",
    "ring_all_reduce",
    "ring_reduce_scatter",
    "ring_steps",
    "run_on_hosts",
    "shared_memory_all_reduce",
    "simulate",
    "simulated_hosts",
    "tree_all_reduce",
    "zero_memory_bytes",
]
