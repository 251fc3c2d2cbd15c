"""Start P ranks, wait for them, and leave nothing behind, whatever becomes of them.

Chapter: course/10_processes.ipynb.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from companion.checks import check_choice, check_count, check_number
from companion.processes.ranks.blame import rank_failed, timed_out
from companion.processes.ranks.by_value import Call
from companion.processes.ranks.failures import LaunchTimeout, RankFailed
from companion.processes.ranks.interrupts import interrupts_held, interrupts_masked
from companion.processes.ranks.process import Place, run_rank
from companion.processes.ranks.watch import Rank, ask_for_stacks, receive

__all__ = ["LaunchTimeout", "RankFailed", "launch"]

_START_LIMIT_S = 120.0
_GRACE_S = 1.0
_EXIT_LIMIT_S = 10.0
_BACKENDS = ("gloo", "nccl", "cpu:gloo,cuda:nccl")


def launch(
    fn: Callable[..., Any],
    world_size: int,
    *args: Any,
    backend: str | None = "gloo",
    timeout_s: float = 60,
) -> list[Any]:
    """Run ``fn(rank, world_size, *args)`` in P new processes that form a process group.

    Every rank is a fresh interpreter (never a fork, which is unsafe once PyTorch has started its
    threads) with an equal share of the processors for PyTorch's own threads, or of the
    ``OMP_NUM_THREADS`` that this process has. Arguments and results travel by value. Ranks meet
    through a file, so no port has to be free. A rank that fails ends the others; so do Ctrl-C
    and the end of this process.

    Source: Python documentation, multiprocessing, "Contexts and start methods"; PyTorch
    documentation, torch.distributed, "Initialization" (FileStore).

    Args:
        fn: What every rank runs; importable, so from a module, or from a script that calls
            ``launch`` under ``if __name__ == "__main__":``.
        world_size: P, the number of ranks, at least 1.
        args: Further arguments; anything that can be pickled. Every rank gets its own copy.
        backend: "gloo", "nccl" (one CUDA device per rank), "cpu:gloo,cuda:nccl", or None for
            processes without a group, which do not import PyTorch unless ``fn`` does.
        timeout_s: Seconds from when all ranks are ready until all must have returned. The
            group's own timeout is a second longer, for this one can tell where each rank is.
            Getting ready may take two minutes.

    Returns:
        The P results in rank order.

    Raises:
        RankFailed: If a rank raises, exits or is killed. It names the rank that failed first,
            with its traceback; that rank's exception is the cause.
        LaunchTimeout: If the time is up; with the stack of each rank that had not returned.
        TypeError: If an argument is of another type.
        ValueError: If a new process cannot import ``fn``, if an argument cannot be pickled or is
            out of its range, or if there are too few devices.

    Example:
        >>> launch(divmod, 3, backend=None)  # rank // 3 and rank % 3
        [(0, 0), (0, 1), (0, 2)]
    """
    _check(world_size, backend, timeout_s)
    call = Call(fn, args)
    with interrupts_held() as interrupts, _folder() as folder:
        ranks: list[Rank] = []
        try:
            for number in range(world_size):
                place = Place(number, world_size, backend, float(timeout_s), folder)
                ranks.append(_start(place, call))
            _wait(ranks, timeout_s, interrupts)
            return [rank.value for rank in ranks]
        finally:
            for rank in ranks:
                rank.end()


def _start(place: Place, call: Call) -> Rank:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    name = f"rank {place.rank}"
    process = context.Process(target=run_rank, args=(place, call, theirs), name=name)
    try:
        with interrupts_masked():
            process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Rank(place, process, ours)


def _wait(ranks: Sequence[Rank], timeout_s: float, interrupts: Sequence[int]) -> None:
    """Until every rank has returned and left, or an interrupt has come."""
    limit_s, ready = _START_LIMIT_S, False
    end = time.monotonic() + limit_s
    while any(rank.running for rank in ranks) and not interrupts:
        receive(ranks, end - time.monotonic())
        if any(rank.lost for rank in ranks):
            _collect(ranks, interrupts)
            raise rank_failed(ranks)
        if not ready and all(rank.ready for rank in ranks):
            limit_s, ready = timeout_s, True
            end = time.monotonic() + limit_s
        if time.monotonic() > end:
            ask_for_stacks(ranks)
            raise timed_out(ranks, limit_s)
    end = time.monotonic() + _EXIT_LIMIT_S
    for rank in ranks if not interrupts else ():
        rank.dismiss()
    for rank in ranks if not interrupts else ():
        rank.join(end - time.monotonic())


def _collect(ranks: Sequence[Rank], interrupts: Sequence[int]) -> None:
    """Hear the other ranks too: the one that failed first may not be the first one heard."""
    end = time.monotonic() + _GRACE_S
    while any(rank.running for rank in ranks) and time.monotonic() < end and not interrupts:
        receive(ranks, end - time.monotonic())
    ask_for_stacks(ranks)


@contextmanager
def _folder() -> Iterator[str]:
    """A private folder for the ranks' rendezvous and stacks, while it lasts."""
    folder = tempfile.mkdtemp(prefix="companion-ranks-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(world_size: int, backend: str | None, timeout_s: float) -> None:
    check_count("world_size", world_size)
    check_number("timeout_s", timeout_s, above=0)
    main = sys.modules["__main__"]
    if main.__spec__ is None and not os.path.exists(getattr(main, "__file__", sys.executable)):
        raise ValueError("expected a program in a file, got one that is read from standard input")
    if backend is not None:
        check_choice("backend", backend, _BACKENDS)
        if "nccl" in backend:
            _check_devices(world_size)


def _check_devices(world_size: int) -> None:
    import torch

    found = torch.cuda.device_count()
    if found < world_size:
        raise ValueError(
            f"nccl: expected a CUDA device for each of {world_size} ranks, got {found}"
        )
