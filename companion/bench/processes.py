"""What two workers bring, and what it costs to start ranks and to hand over data.

"In turn" is one thread that does both halves: the ratio is the speedup of two workers. A launch is
timed from the call to the last result; its peer is what PyTorch offers for the same.
"""

import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from companion.measure.workload import Workload
from companion.processes import SharedArray, WorkerPool, launch
from companion.processes.study.probes import add_ranks
from companion.processes.study.workloads import count_in_python, matmul

__all__ = ["workloads"]

COUNTED, PRODUCTS, WIDTH = 4_000_000, 40, 512
THREADS_CEILING, PROCESSES_BAR, MATMUL_BAR = 1.1, 1.7, 1.6
RANKS, LAUNCH_LIMIT_S = 4, 6.0
HANDED_OVER_BYTES, HANDOVER_BAR = 100_000_000, 20.0


def workloads(device: str) -> Iterator[Workload]:
    """Of a CPU only."""
    if device != "cpu":
        return
    yield from _speedups()
    yield Workload(
        name=f"launch {RANKS} ranks, one all_reduce, and back",
        peer="torch.multiprocessing.spawn",
        ours=partial(launch, add_ranks, RANKS),
        theirs=_spawn,
        equal=lambda ours, theirs: ours == theirs,
        limit_s=LAUNCH_LIMIT_S,
    )
    yield from _handover()


def _speedups() -> Iterator[Workload]:
    count, product = partial(count_in_python, COUNTED), partial(matmul, WIDTH, PRODUCTS)
    with WorkerPool(2, kind="process") as pool:
        for name, ours, work, bar, ceiling in [
            (
                "plain Python on 2 threads",
                partial(_on_threads, count),
                count,
                None,
                THREADS_CEILING,
            ),
            (
                "plain Python on 2 processes",
                lambda: pool.map(count_in_python, [COUNTED, COUNTED]),
                count,
                PROCESSES_BAR,
                None,
            ),
            ("matmul on 2 threads", partial(_on_threads, product), product, MATMUL_BAR, None),
        ]:
            yield Workload(
                name=name,
                peer="in turn",
                ours=ours,
                theirs=partial(_in_turn, work),
                equal=lambda ours, theirs: ours == theirs,
                bar=bar,
                ceiling=ceiling,
            )


def _in_turn(work: Callable[[], Any]) -> list[Any]:
    return [work(), work()]


def _on_threads(work: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# The peer of launch


def _spawn() -> list[list[float]]:
    """Every rank's sum, written to a file: ``spawn`` returns nothing."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_spawned, (folder,), nprocs=RANKS)
        return [torch.load(Path(folder, str(rank))) for rank in range(RANKS)]


def _spawned(rank: int, folder: str) -> None:
    store = distributed.FileStore(str(Path(folder, "store")), RANKS)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    torch.save(add_ranks(rank, RANKS), Path(folder, str(rank)))
    distributed.barrier()
    distributed.destroy_process_group()


# Data for another process


def _handover() -> Iterator[Workload]:
    context = multiprocessing.get_context("spawn")
    orders, answers = context.Queue(), context.Queue()
    receiver = context.Process(target=_receive, args=(orders, answers), daemon=True)
    receiver.start()

    def hand_over(data: object) -> tuple[int, int]:
        orders.put(data)
        return answers.get(timeout=60)

    numbers = np.zeros(HANDED_OVER_BYTES, np.uint8)
    numbers[0], numbers[-1] = 7, 9
    with SharedArray(HANDED_OVER_BYTES, torch.uint8) as shared:
        shared.tensor.copy_(torch.from_numpy(numbers))
        yield Workload(
            name="SharedArray of 100 MB through a queue",
            peer="pickled through the queue",
            ours=partial(hand_over, shared),
            theirs=partial(hand_over, numbers),
            equal=lambda ours, theirs: ours == theirs == (7, 9),
            bar=HANDOVER_BAR,
        )
    orders.put(None)
    receiver.join(10)


def _receive(orders: multiprocessing.Queue, answers: multiprocessing.Queue) -> None:
    """Read the first and the last byte of whatever comes."""
    while (data := orders.get()) is not None:
        if isinstance(data, SharedArray):
            with data:
                answers.put((int(data.tensor[0]), int(data.tensor[-1])))
        else:
            answers.put((int(data[0]), int(data[-1])))
