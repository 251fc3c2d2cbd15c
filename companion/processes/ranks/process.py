"""What runs in the process of one rank: join the group, call the function, tell the parent.

    started → ready → returned or failed      (messages to the parent, in this order)

Chapter: course/10_processes.ipynb.
"""

import atexit
import multiprocessing
import multiprocessing.connection
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from companion.processes.ranks.by_value import Call
from companion.processes.ranks.stacks import answer_with_stack

__all__ = [
    "Failed",
    "Place",
    "Ready",
    "Returned",
    "Started",
    "run_rank",
    "stack_path",
    "threads_of_rank",
]

_LINGER_S = 1.0
_GROUP_LATER_S = 1.0
_TORCHRUN = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"),
    *("MASTER_ADDR", "MASTER_PORT"),
)


class Place(NamedTuple):
    """One rank's place in a launch."""

    rank: int
    world_size: int
    backend: str | None
    timeout_s: float
    folder: str


class Started(NamedTuple):
    """The process runs our code and answers with its stack."""


class Ready(NamedTuple):
    """The group is complete; the function begins."""


class Returned(NamedTuple):
    """The function returned."""

    pickled: bytes


class Failed(NamedTuple):
    """The function, or the way to it, raised; ``when_s`` is on the clock all processes share."""

    when_s: float
    summary: str
    traceback: str
    exit_code: int
    pickled: bytes | None


def stack_path(folder: str, rank: int) -> Path:
    """Where a rank writes its stack."""
    return Path(folder, f"stack-{rank}")


def run_rank(place: Place, call: Call, parent: Connection) -> NoReturn:
    """Run one rank from beginning to end; leaves the process."""
    _stand_alone()
    threading.Thread(target=_end_with_parent, args=(place.folder,), daemon=True).start()
    _set_environment(place)
    stacks = answer_with_stack(stack_path(place.folder, place.rank))
    parent.send(Started())
    exit_code = 0
    try:
        fn, args = call.load()
        with _group(place):
            parent.send(Ready())
            value = fn(place.rank, place.world_size, *args)
            parent.send(Returned(_pickled(value)))
            # Peers may still talk to this rank; but those that wait for it in vain shall know.
            parent.poll(_LINGER_S)
    except BaseException as error:
        failed = _failure(error)
        exit_code = failed.exit_code
        parent.send(failed)
    _leave(exit_code, stacks)


def _stand_alone() -> None:
    """Leave the parent's terminal: the parent alone decides what Ctrl-C means.

    The new session is also a process group, by which the parent can end this rank's children.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.setsid()


def _end_with_parent(folder: str) -> None:
    """End this rank and its children, and leave no file, when the parent is gone."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _set_environment(place: Place) -> None:
    """Forget a torchrun around us, whose ranks are others; share the processors."""
    for name in list(os.environ):
        if name in _TORCHRUN or "WORLD_SIZE" in name or name.startswith("TORCHELASTIC_"):
            del os.environ[name]
    # Without an interface gloo looks up this host's name, which fails where there is no network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    # Read by PyTorch when it is imported, be it by the function itself.
    os.environ["OMP_NUM_THREADS"] = str(threads_of_rank(place.world_size))


def threads_of_rank(ranks: int) -> int:
    """Threads that PyTorch may use in each of P ranks: the launching process's own, shared."""
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    if allowed.isdecimal():
        processors = min(processors, int(allowed))
    return max(1, processors // ranks)


@contextmanager
def _group(place: Place) -> Iterator[None]:
    """The process group of all ranks, while it lasts."""
    if place.backend is not None:
        from torch import distributed
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if place.backend is None:
        yield
        return
    distributed.init_process_group(
        place.backend,
        # A file, for a free port found by one process may be taken when another one opens it.
        store=distributed.FileStore(os.path.join(place.folder, "store"), place.world_size),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=place.timeout_s + _GROUP_LATER_S),
        device_id=_device(place),
    )
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device(place: Place) -> Any:
    if "nccl" not in place.backend:
        return None
    import torch

    device = torch.device("cuda", place.rank)
    torch.cuda.set_device(device)
    return device


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TypeError(
            "the result must be something that can be pickled, got "
            f"{type(value).__name__} ({type(error).__name__}: {error})"
        ) from error


def _failure(error: BaseException) -> Failed:
    when_s = time.monotonic()
    here = error.__traceback__ and error.__traceback__.tb_next  # without run_rank's own frame
    text = "".join(traceback.format_exception(type(error), error, here))
    summary = traceback.format_exception_only(error)[-1].strip()
    try:
        pickled = pickle.dumps(error)
    except Exception:
        pickled = None
    return Failed(when_s, summary, text, _exit_code(error), pickled)


def _exit_code(error: BaseException) -> int:
    """As the interpreter would have it: ``sys.exit("words")`` is 1."""
    if not isinstance(error, SystemExit):
        return 1
    code = error.code
    return 0 if code is None else code & 0xFF if isinstance(code, int) else 1


def _leave(exit_code: int, stacks: Any) -> NoReturn:
    """End without the interpreter's own tidying up, which takes 0.3 s once PyTorch is loaded.

    The system closes sockets and frees memory; a thread that never ends cannot hold us here.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr, stacks):
        if stream is not None:
            stream.flush()
    os._exit(exit_code)
