"""Every public function of chapter 11 with bad arguments, in a group of one rank."""

import pytest
import torch
from torch import distributed, nn

from companion import collectives as c
from tests.bad_arguments import check_answers, check_complete

FLAT = c.Topology(between=c.Link(1e-5, 1e-9))


@pytest.fixture
def group_of_one(tmp_path):
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Scale(nn.Module):
    """Takes whatever tensor there is."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.by * x.abs().double()


def calls():
    """A right call of each public function: the function and its arguments."""
    reduced = {"tensor": torch.ones(3), "op": "sum", "group": None}
    linear = {"alpha_s": 1e-5, "beta_s_per_byte": 1e-9, "gamma_s_per_byte": 1e-10}
    hosts = {"ranks_per_host": 2, "ranks_per_nic": 1}
    sizes = {"bucket_bytes": 8, "first_bucket_bytes": 4}
    return {
        c.DataParallel: {"module": nn.Linear(2, 3), **sizes, "group": None},
        c.Topology: {"between": FLAT.between, "inside": FLAT.between, **hosts, "duplex": "full"},
        c.ZeroOptimizer: {
            "optimizer_class": torch.optim.SGD,
            "parameters": list(nn.Linear(2, 3).parameters()),
            "stage": 1,
            "bucket_bytes": 8,
            "master_dtype": torch.float32,
            "group": None,
        },
        c.algorithm_bandwidth: {"size_bytes": 8.0, "time_s": 0.5},
        c.all_reduce_at_scale: {
            "bytes": 1e6,
            "ranks": [8, 16],
            "algorithms": ["ring"],
            "topology": FLAT,
        },
        c.assign_buckets: {"parameters": list(nn.Linear(2, 3).parameters()), **sizes},
        c.bus_bandwidth: {"size_bytes": 8.0, "time_s": 0.5, "ranks": 2},
        c.collective_cost: {
            "algorithm": "hierarchical",
            "ranks": 4,
            "bytes": 8.0,
            "intra_alpha_s": 1e-6,
            "intra_beta_s_per_byte": 1e-10,
            **linear,
            **hosts,
        },
        c.cost_coefficients: {"algorithm": "hierarchical", "ranks": 4, **hosts},
        c.crossover_bytes: {"first": "ring", "second": "tree", "ranks": 4, **linear},
        c.fastest: {"ranks": 4, "bytes": 8.0, "algorithms": ["ring", "tree"], **linear},
        c.fit_alpha_beta: {
            "sizes_bytes": [1e3, 1e6],
            "times_s": [1e-5, 1e-3],
            "algorithm": "ring",
            "ranks": 4,
        },
        c.halving_doubling_all_reduce: reduced,
        c.hierarchical_all_reduce: reduced | {"ranks_per_host": 1},
        c.holds_invariant: {"state": c.ring_steps(3)[2]},
        c.measure_overlap: {
            "module": Scale(),
            "inputs": torch.ones(4, 2),
            "bucket_bytes": 8,
            "alpha_s": 1e-5,
            "beta_s_per_byte": 1e-9,
            "repeats": 1,
            "group": None,
        },
        c.overlap_time: {"compute_s": [1.0, 2.0], "reduce_s": [1.0, 2.0]},
        c.parameter_server_all_reduce: reduced,
        c.ring_all_gather: {"chunk": torch.ones(3), "group": None},
        c.ring_all_reduce: reduced | {"chunk_bytes": 8, "async_op": False},
        c.ring_reduce_scatter: reduced,
        c.ring_steps: {"ranks": 3},
        c.shared_memory_all_reduce: reduced,
        c.simulate: {
            "algorithm": "ring",
            "ranks": 4,
            "bytes": 8.0,
            "topology": FLAT,
            "gamma_s_per_byte": 1e-10,
            "delays_s": {1: 0.5},
            "slowdowns": {1: 2.0},
            "keep_events": True,
        },
        c.tree_all_reduce: reduced,
        c.zero_memory_bytes: {
            "parameters": 7e9,
            "ranks": 8,
            "stage": 1,
            "weight_bytes": 2.0,
            "gradient_bytes": 2.0,
            "optimizer_bytes": 12.0,
        },
    }


# Need root and network namespaces: tests/collectives/test_hosts.py.
WITHOUT = {c.run_on_hosts, c.simulated_hosts}


def test_every_public_function_is_here():
    check_complete(c, calls(), without=WITHOUT)


@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_that_helps(group_of_one):
    check_answers(calls())
