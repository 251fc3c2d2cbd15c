"""Every public function of chapter 10 with bad arguments."""

import os

import pytest
import torch

from companion import processes as p
from tests.bad_arguments import check_answers, check_complete


def nothing():
    """Work that takes no time."""


def calls():
    """A right call of each public function: the function and its arguments."""
    return {
        p.SharedArray: {"shape": (2, 3), "dtype": torch.float32},
        p.TracedLock: {"name": "left"},
        p.WorkerPool: {"n": 1, "kind": "thread"},
        p.all_interleavings: {"increments": 1, "workers": 2},
        p.amdahl: {"fraction": 0.5, "workers": 2},
        p.copy_on_write: {"size_bytes": 100_000, "writes": [0.5]},
        p.find_deadlock: {"timeout_s": 0.01},
        p.fit_parallel_fraction: {"workers": [1, 2], "speedups": [1.0, 1.5]},
        p.fork_after_threads: {"timeout_s": 0.05, "held": True},
        p.gil_timeline: {"switch_interval_s": 0.01, "workers": 2, "duration_s": 0.01},
        p.handover_s: {"size_bytes": 1000, "by": "pickle", "repeats": 1},
        p.launch: {"fn": divmod, "world_size": 1, "backend": None, "timeout_s": 60},
        p.measure_creation: {"kind": "thread", "n": 1},
        p.measure_switch: {"n": 1, "kind": "thread"},
        p.memory_pss: {"pid": os.getpid()},
        p.race: {"increments": 1, "workers": 2, "lock": False, "schedule": [0, 1, 0, 1, 0, 1]},
        p.speedup: {"work": nothing, "workers": [1], "kind": "thread", "repeats": 1},
        p.threads: {"pid": os.getpid()},
    }


# Without arguments; a context manager.
WITHOUT = {p.Interleaving, p.free_threading, p.thread_life, p.two_locks}


def test_every_public_function_is_here():
    check_complete(p, calls(), without=WITHOUT)


@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_that_helps():
    check_answers(calls())
