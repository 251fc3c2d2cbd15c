"""A pool of worker processes or threads in which nothing waits for ever.

``multiprocessing.Pool`` waits for the result of a worker that was killed; the executors of
``concurrent.futures`` notice, and then refuse all further work. Here each worker has a thread in
this process that watches it: a loss costs one task, named in the error, and the pool goes on.

Chapter: course/10_processes.ipynb.  Dimension key: W workers.
"""

import atexit
import reprlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, as_completed
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal, Self

from companion.checks import check_choice, check_count
from companion.processes.pool.workers import Outcome, ProcessWorker, Task, ThreadWorker
from companion.processes.spans import Span

__all__ = ["WorkerPool"]

_KINDS = {"process": ProcessWorker, "thread": ThreadWorker}


class WorkerPool:
    """W workers that take tasks from one queue.

    Processes are spawned, so functions must stand in a module that can be imported, and arguments
    and results are pickled. Threads share this process, its objects and its interpreter lock.

    Source: Python documentation, ``concurrent.futures``, whose ``Future`` is used. Difference: a
    worker that dies or overruns is replaced, and only its task fails.

    Args:
        n: Workers W, at least 1.
        kind: "process" or "thread". A thread cannot be killed: after a timeout it runs on beside
            the pool, and a new thread takes its place.

    Raises:
        TypeError, ValueError: If ``n`` or ``kind`` is none of these.

    Example:
        >>> with WorkerPool(2, kind="thread") as pool:
        ...     pool.map(abs, [3, -1, -4])
        [3, 1, 4]
    """

    def __init__(self, n: int, *, kind: Literal["process", "thread"] = "process") -> None:
        check_count("n", n)
        check_choice("kind", kind, _KINDS)
        self.kind = kind
        self._tasks: SimpleQueue[tuple[int, Task, Future] | None] = SimpleQueue()
        self._spans: list[Span] = []
        self._submitted = 0
        self._is_closed = False
        self._changing = threading.Lock()
        self._workers: list[ProcessWorker | ThreadWorker] = []
        self._watchers: list[threading.Thread] = []
        atexit.register(self.close, wait=False)
        try:
            for index in range(n):
                self._add_worker(index)
        except BaseException:  # Ctrl-C too: what was started is ended
            self.close(wait=False)
            raise

    @property
    def spans(self) -> list[Span]:
        """Who ran which task when, by start; tasks that failed are there too."""
        return sorted(self._spans, key=lambda span: span.start_s)

    def submit(self, fn: Callable[..., Any], *args: Any, timeout_s: float | None = None) -> Future:
        """Queue ``fn(*args)``.

        Args:
            fn: What to call.
            *args: Its arguments.
            timeout_s: Seconds that the task may run, counted from its start in the worker.

        Returns:
            A future. Its exception may be the task's own, with a note that holds the worker's
            traceback, or ``WorkerDied``, ``TaskTimeout``, or TypeError for what cannot be pickled.

        Raises:
            RuntimeError: If the pool is closed.
            ValueError: If ``timeout_s`` is not positive.
        """
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, got {timeout_s}")
        future: Future = Future()
        with self._changing:
            if self._is_closed:
                raise RuntimeError("expected an open pool, got one that was closed")
            number, self._submitted = self._submitted, self._submitted + 1
            task = Task(fn, args, timeout_s, _name(number, fn, args))
            self._tasks.put((number, task, future))
        return future

    def map(
        self,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> list[Any]:
        """``[fn(item) for item in items]``, computed by all workers.

        Args:
            fn: What to call.
            items: What to call it with, one at a time.
            timeout_s: Seconds for each task, as in ``submit``.
            progress: Show a bar (on standard error) of tasks done.

        Returns:
            The results, in the order of the items.

        Raises:
            Exception: A failed task's, as soon as there is one, the earliest item's if there are
                several. Tasks that have not begun by then are cancelled.
        """
        futures: list[Future] = []
        try:
            for item in items:
                futures.append(self.submit(fn, item, timeout_s=timeout_s))
            for future in _watched(futures, progress):
                if future.cancelled() or future.exception() is not None:
                    break
        finally:
            for future in futures:  # Ctrl-C comes here, too
                future.cancel()
        for future in futures:
            if future.done() and not future.cancelled():
                future.result()  # the earliest failure raises
        return [future.result() for future in futures]

    def close(self, *, wait: bool = True) -> None:
        """End the workers; a second call does nothing.

        Args:
            wait: Finish what was submitted first. Without it what waits is cancelled, and what
                runs in a process is killed.
        """
        with self._changing:
            self._is_closed = True
            atexit.unregister(self.close)
        try:
            if wait:
                self._dismiss()
        finally:  # also when Ctrl-C ends the wait
            with suppress(Empty):
                while True:
                    if (entry := self._tasks.get_nowait()) is not None:
                        entry[2].cancel()
            if any(watcher.is_alive() for watcher in self._watchers):
                for worker in self._workers:
                    worker.stop()
                self._dismiss()
            for worker in self._workers:
                worker.hang_up()
            for worker in self._workers:
                worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close(wait=kind is None)

    def __repr__(self) -> str:
        state = ", closed" if self._is_closed else ""
        return f"WorkerPool({len(self._workers)}, kind={self.kind!r}{state})"

    def _add_worker(self, index: int) -> None:
        worker = _KINDS[self.kind](index)
        self._workers.append(worker)
        # A daemon: should nobody close the pool, the interpreter's exit does, and waits for none.
        watcher = threading.Thread(
            target=self._watch, args=(worker,), name=f"watcher of worker {index}", daemon=True
        )
        watcher.start()
        self._watchers.append(watcher)

    def _watch(self, worker: ProcessWorker | ThreadWorker) -> None:
        """Give one worker task after task."""
        while (entry := self._tasks.get()) is not None:
            number, task, future = entry
            if future.set_running_or_notify_cancel():
                self._settle(number, worker, task, future)
            del entry, task, future  # keep no result alive while waiting for the next

    def _settle(
        self, number: int, worker: ProcessWorker | ThreadWorker, task: Task, future: Future
    ) -> None:
        try:
            outcome = worker.run(task)
        except BaseException as error:  # a watcher that dies would leave the future open for ever
            future.set_exception(error)
            return
        self._spans.append(Span(worker.index, number, outcome.start_s, outcome.end_s))
        _fulfil(future, outcome)

    def _dismiss(self) -> None:
        """Tell every watcher to leave once the queue is empty, and wait for them."""
        for _ in self._watchers:
            self._tasks.put(None)
        for watcher in self._watchers:
            watcher.join()


def _fulfil(future: Future, outcome: Outcome) -> None:
    if outcome.error is None:
        future.set_result(outcome.value)
    else:
        future.set_exception(outcome.error)


def _watched(futures: list[Future], progress: bool) -> Iterable[Future]:
    """The futures as they are done, with a bar if asked for."""
    done = as_completed(futures)
    if not progress:
        return done
    from tqdm import tqdm

    return tqdm(done, total=len(futures), unit="task")


def _name(number: int, fn: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """``task 3, decode('cat', 7)``."""
    name = getattr(fn, "__qualname__", None) or repr(fn)
    return f"task {number}, {name}({', '.join(map(reprlib.repr, args))})"
