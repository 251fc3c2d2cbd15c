"""Ranks that stand ready and do what they are told, order by order.

``launch`` runs one function in every rank and ends. A comparison that measures two sides in turns,
from outside, needs ranks that stay.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import distributed

from companion.processes.ranks.process import threads_of_rank

__all__ = ["OrderFailed", "StandingRanks"]

_EXIT_LIMIT_S = 5.0


class OrderFailed(RuntimeError):
    """A rank raised an error, ended, or did not answer in time."""


class StandingRanks:
    """P new processes that form a gloo group and wait for orders; a context manager.

    Args:
        ranks: P, at least 1.
        timeout_s: For the start and for every order; also the group's own.
        context: How they start; "forkserver" is quick where
            ``multiprocessing.set_forkserver_preload`` has named what takes long to import.

    Raises:
        ValueError: If ``ranks`` is less than 1.
        OrderFailed: If a rank does not start.

    Example:
        >>> with StandingRanks(2) as ranks:
        ...     ranks.order(divmod, 7, 2)
        [(3, 1), (3, 1)]
    """

    def __init__(
        self,
        ranks: int,
        *,
        timeout_s: float = 120.0,
        context: Literal["spawn", "forkserver"] = "spawn",
    ) -> None:
        if ranks < 1:
            raise ValueError(f"ranks must be at least 1, got {ranks}")
        self._timeout_s = timeout_s
        self._context = multiprocessing.get_context(context)
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._orders: list[Connection] = []
        self._folder = tempfile.TemporaryDirectory(prefix="companion-ranks-")
        try:
            for rank in range(ranks):
                self._start(rank, ranks, self._folder.name)
            self._answers()
        except BaseException:
            self.close()
            raise

    def order(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        """Let every rank call ``function(*arguments, **options)``; the P results in rank order.

        Raises:
            OrderFailed: If the call raises in a rank, with that rank's traceback; if a rank has
                ended or does not answer in time. All ranks are ended then.
            ValueError: If the ranks have been ended.
        """
        if not self._orders:
            raise ValueError("expected ranks that stand ready, got ranks that have been ended")
        try:
            for rank, connection in enumerate(self._orders):
                self._send(rank, connection, (function, arguments, options))
            return self._answers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the ranks; a second call does nothing."""
        for connection in self._orders:
            connection.close()  # they read the end of their orders, and return
        end = time.monotonic() + _EXIT_LIMIT_S
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()
            process.close()
        self._processes, self._orders = [], []
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, rank: int, ranks: int, folder: str) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_stand,
            args=(rank, ranks, folder, self._timeout_s, theirs),
            name=f"rank {rank}",
            daemon=True,  # or an exit of this process would wait for ranks that wait for orders
        )
        process.start()
        theirs.close()
        self._processes.append(process)
        self._orders.append(ours)

    def _send(self, rank: int, connection: Connection, message: object) -> None:
        try:
            connection.send(message)
        except OSError as error:
            raise OrderFailed(f"rank {rank} has ended") from error

    def _answers(self) -> list[Any]:
        """One answer of each rank; the first failure that is heard is the one that is raised."""
        answers: dict[int, Any] = {}
        waiting = dict(enumerate(self._orders))
        end = time.monotonic() + self._timeout_s
        while waiting:
            left_s = max(0.0, end - time.monotonic())
            ready = multiprocessing.connection.wait(waiting.values(), left_s)
            if not ready:
                names = " and ".join(f"rank {rank}" for rank in waiting)
                raise OrderFailed(f"{names} did not answer within {self._timeout_s:g} s")
            for rank in [rank for rank, connection in waiting.items() if connection in ready]:
                answers[rank] = _received(rank, waiting.pop(rank))
        return [answers[rank] for rank in sorted(answers)]


def _received(rank: int, connection: Connection) -> Any:
    try:
        answer, problem = connection.recv()
    except (EOFError, OSError) as error:
        raise OrderFailed(f"rank {rank} has ended") from error
    if problem:
        raise OrderFailed(f"rank {rank} raised an error:\n{problem}")
    return answer


def _stand(rank: int, ranks: int, folder: str, timeout_s: float, orders: Connection) -> None:
    """A rank's whole life."""
    torch.set_num_threads(threads_of_rank(ranks))
    timeout = timedelta(seconds=timeout_s)
    store = distributed.FileStore(os.path.join(folder, "store"), ranks)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=ranks, timeout=timeout
    )
    distributed.barrier()
    orders.send((None, ""))
    while True:
        try:
            function, arguments, options = orders.recv()
        except EOFError:
            break
        try:
            orders.send((function(*arguments, **options), ""))
        except Exception:
            orders.send((None, traceback.format_exc()))
    distributed.destroy_process_group()
