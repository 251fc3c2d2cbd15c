"""A tensor whose memory several processes see.

Chapter: course/10_processes.ipynb.
"""

import math
import mmap
import os
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from companion.processes.memory_blocks import AnonymousMemory, NamedMemory

if TYPE_CHECKING:  # a rank that needs no PyTorch shall not wait for it
    import torch

__all__ = ["SharedArray"]


class SharedArray:
    """A tensor over memory that other processes can map too; it starts as zeros.

    Pickling it makes a handle of a few hundred bytes, whatever its size; unpickled in another
    process (as an argument of ``launch``, say) it is the same memory. It must be open until the
    other process has it. Who writes when is left to the caller.

    Source: Linux manual page memfd_create(2). On Linux the memory has no name, so it is gone with
    the last process that maps it, even if all are killed. Elsewhere it is POSIX shared memory.

    Args:
        shape: Its dimensions; an int for one dimension. May hold no elements.
        dtype: ``torch.float32`` if None.

    Attributes:
        shape: As a tuple.
        dtype: Of the tensor.
        size_bytes: Of the tensor.

    Raises:
        TypeError: If ``shape`` or ``dtype`` is none.
        ValueError: If a dimension is negative; later, if it is used after it was closed.
        FileNotFoundError: When unpickled, if it was closed meanwhile or its process has ended.

    Example:
        >>> import pickle
        >>> with SharedArray((2, 3)) as ours:
        ...     theirs = pickle.loads(pickle.dumps(ours))  # in another process
        ...     ours.tensor[1, 2] = 5.0
        ...     theirs.tensor[1].tolist()
        ...     theirs.close()
        [0.0, 0.0, 5.0]
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        dtype: "torch.dtype | None" = None,
        *,
        _named: bool = not hasattr(os, "memfd_create"),
    ) -> None:
        self._describe(_dimensions(shape), dtype)
        # No system maps zero bytes.
        self._hold((NamedMemory if _named else AnonymousMemory).make(max(self.size_bytes, 1)))

    @property
    def tensor(self) -> "torch.Tensor":
        """The tensor. Its memory stays until the last tensor over it is gone, closed or not."""
        self._check_open()
        return self._tensor

    @property
    def closed(self) -> bool:
        """It was closed in this process."""
        return self._tensor is None

    def close(self) -> None:
        """Give up this process's way to the memory; a second call does nothing."""
        self._tensor = None
        self._end()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return _found, (self.shape, self.dtype, type(self._memory), self._memory.handle())

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"SharedArray({self.shape}, {self.dtype}{state})"

    def _describe(self, shape: tuple[int, ...], dtype: "torch.dtype | None") -> None:
        import torch

        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}")
        self.shape, self.dtype = shape, dtype or torch.float32
        self.size_bytes = math.prod(shape) * self.dtype.itemsize

    def _hold(self, memory: AnonymousMemory | NamedMemory) -> None:
        import torch

        self._memory = memory
        # Called once: by close(), or when nobody knows this object any more, or at the exit.
        self._end = weakref.finalize(self, memory.close)
        mapped = mmap.mmap(memory.fd, max(self.size_bytes, 1))
        # The tensor keeps the mapping, which ends with it: close() pulls it from under nobody.
        content = torch.frombuffer(mapped, dtype=torch.uint8)[: self.size_bytes]
        self._tensor: torch.Tensor | None = content.view(self.dtype).view(self.shape)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("expected an open SharedArray, got one that was closed")


def _found(
    shape: tuple[int, ...],
    dtype: "torch.dtype",
    kind: type[AnonymousMemory] | type[NamedMemory],
    handle: Any,
) -> SharedArray:
    """The array of a handle, in the process that has received it."""
    array = SharedArray.__new__(SharedArray)
    array._describe(shape, dtype)
    array._hold(kind.find(handle))
    return array


def _dimensions(shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else shape
    if not isinstance(sizes, Sequence) or not all(
        isinstance(size, int) and not isinstance(size, bool) for size in sizes
    ):
        raise TypeError(f"shape must be a sequence of ints, got {shape!r}")
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape must have no negative dimension, got {tuple(sizes)}")
    return tuple(sizes)
