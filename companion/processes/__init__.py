"""Threads, processes and ranks. Chapter: course/10_processes.ipynb.

Read ``launching.py`` first, then ``ranks/process.py`` and ``ranks/watch.py``: how a rank starts,
and how every failure reaches the caller. A race and a deadlock on a written schedule:
``lost_update.py``, ``traced_lock.py``. What mainly the chapter calls: ``study``.
"""

from companion.processes.amdahls_law import amdahl, fit_parallel_fraction
from companion.processes.creation import CreationCost, measure_creation
from companion.processes.interpreter_lock import FreeThreading, free_threading
from companion.processes.launching import launch
from companion.processes.lost_update import Interleaving, RaceResult, Step, race
from companion.processes.pool.errors import TaskTimeout, WorkerDied
from companion.processes.pss import MemoryUse, memory_pss
from companion.processes.ranks.failures import LaunchTimeout, RankFailed
from companion.processes.shared_array import SharedArray
from companion.processes.spans import Span
from companion.processes.study.frozen_fork import ForkOutcome, fork_after_threads
from companion.processes.study.gil_spans import GilSpan, gil_timeline
from companion.processes.study.handover import handover_s
from companion.processes.study.interleavings import all_interleavings
from companion.processes.study.life_stages import Stage, thread_life
from companion.processes.study.lock_pair import two_locks
from companion.processes.study.page_copies import CopyRow, copy_on_write
from companion.processes.switching import SwitchCost, measure_switch
from companion.processes.thread_list import ThreadInfo, threads
from companion.processes.throughput import SpeedupRow, SpeedupTable, speedup
from companion.processes.traced_lock import DeadlockBroken, TracedLock
from companion.processes.wait_graph import WaitEdge, WaitGraph, find_deadlock
from companion.processes.worker_pool import WorkerPool

__all__ = [
    "CopyRow",
    "CreationCost",
    "DeadlockBroken",
    "ForkOutcome",
    "FreeThreading",
    "GilSpan",
    "Interleaving",
    "LaunchTimeout",
    "MemoryUse",
    "RaceResult",
    "RankFailed",
    "SharedArray",
    "Span",
    "SpeedupRow",
    "SpeedupTable",
    "Stage",
    "Step",
    "SwitchCost",
    "TaskTimeout",
    "ThreadInfo",
    "TracedLock",
    "WaitEdge",
    "WaitGraph",
    "WorkerDied",
    "WorkerPool",
    "all_interleavings",
    "amdahl",
    "copy_on_write",
    "find_deadlock",
    "fit_parallel_fraction",
    "fork_after_threads",
    "free_threading",
    "gil_timeline",
    "handover_s",
    "launch",
    "measure_creation",
    "measure_switch",
    "memory_pss",
    "race",
    "speedup",
    "thread_life",
    "threads",
    "two_locks",
]
