"""What a worker pool reports when a task does not come back."""

import signal

__all__ = ["TaskTimeout", "WorkerDied"]


class WorkerDied(RuntimeError):
    """A worker ended while it held a task: killed, crashed or left by ``os._exit``.

    Example:
        >>> print(WorkerDied(worker=1, exit_code=-9, task="task 4, decode('cat')"))
        worker 1 died (killed by SIGKILL) while it ran task 4, decode('cat')
    """

    def __init__(
        self, *, worker: int, exit_code: int | None, task: str, stage: str = "ran"
    ) -> None:
        self.worker, self.exit_code, self.task = worker, exit_code, task
        super().__init__(f"worker {worker} died ({_ending(exit_code)}) while it {stage} {task}")


class TaskTimeout(RuntimeError):
    """A task took longer than it was given.

    Example:
        >>> print(TaskTimeout(worker=0, task="task 2, sleep(60)", timeout_s=0.5))
        task 2, sleep(60) was still running in worker 0 after 0.5 s
    """

    def __init__(self, *, worker: int, task: str, timeout_s: float) -> None:
        self.worker, self.task, self.timeout_s = worker, task, timeout_s
        super().__init__(f"{task} was still running in worker {worker} after {timeout_s:g} s")


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "the pool was closed"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-exit_code}"
