"""The calls of one group, in order: their numbers, and a thread for those that run beside us.

Ranks match their messages by order alone. So whatever runs asynchronously on a group runs on one
thread, one call after the other, and a synchronous call waits for those before it.

Chapter: course/11_collectives.ipynb.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

__all__ = ["Handle", "calls_of"]

# The thread outlives its last call by this much, so that the next bucket need not start another.
_LINGER_S = 0.1


class Handle:
    """A collective under way.

    Between the call and the end of ``wait()`` the tensor belongs to the collective.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._future: Future[Tensor] = Future()
        self._start = self._end = None
        if isinstance(tensor, Tensor) and tensor.is_cuda:
            self._start = torch.cuda.current_stream(tensor.device).record_event()

    def wait(self) -> Tensor:
        """Wait for the end and return the tensor.

        Raises:
            CollectiveMismatch: As a synchronous call would.
            PeerLost: As a synchronous call would.
        """
        tensor = self._future.result()
        if self._end is not None:
            torch.cuda.current_stream(tensor.device).wait_event(self._end)
        return tensor

    def is_completed(self) -> bool:
        """Whether ``wait()`` would return, or raise, at once."""
        return self._future.done() and (self._end is None or self._end.query())

    def _run(self, call: Callable[[], Tensor]) -> None:
        try:
            self._future.set_result(self._on_side_stream(call) if self._start else call())
        except BaseException as error:
            self._future.set_exception(error)

    def _on_side_stream(self, call: Callable[[], Tensor]) -> Tensor:
        """Kernels of the call go beside the caller's, after what the caller had queued before."""
        side = torch.cuda.Stream(self._start.device)
        side.wait_event(self._start)
        with torch.cuda.stream(side):
            tensor = call()
            self._end = side.record_event()
        return tensor


class _Calls:
    """The calls of one group, in order."""

    def __init__(self) -> None:
        self._number = 0
        self._pending: deque[tuple[Handle, Callable[[], Tensor]]] = deque()
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._running = False

    def next_number(self) -> int:
        """How many calls came before this one."""
        self._number += 1
        return self._number - 1

    def run(self, call: Callable[[], Tensor], tensor: Tensor) -> Tensor:
        """Run a call now, after those that are pending."""
        with self._changed:
            idle = not self._pending and not self._running
        if not idle and threading.current_thread() is not self._thread:
            return self.start(call, tensor).wait()
        with self._turn:
            return call()

    def start(self, call: Callable[[], Tensor], tensor: Tensor) -> Handle:
        """Run a call on the group's thread, after those that are pending."""
        handle = Handle(tensor)
        with self._changed:
            self._pending.append((handle, call))
            if self._thread is None:
                # A daemon: a rank that exits in the middle must not wait for its peers.
                self._thread = threading.Thread(
                    target=self._work, name="companion-collectives", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return handle

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = False
                if not self._changed.wait_for(lambda: self._pending, timeout=_LINGER_S):
                    self._thread = None
                    return
                handle, call = self._pending.popleft()
                self._running = True
            with self._turn:
                handle._run(call)
            del handle, call  # or the tensor would live until the next call


_CALLS: "WeakKeyDictionary[ProcessGroup, _Calls]" = WeakKeyDictionary()
_LOCK = threading.Lock()


def calls_of(group: ProcessGroup) -> _Calls:
    """The calls of this group; forgotten together with the group."""
    with _LOCK:
        return _CALLS.setdefault(group, _Calls())
