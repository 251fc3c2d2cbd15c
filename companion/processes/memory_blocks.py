"""Memory that several processes map, and the two ways to get hold of it from another process.

    anonymous   memfd_create     found as /proc/<process>/fd/<number>    no name, nothing to remove
    named       shm_open         found by its name                       somebody has to remove it

Chapter: course/10_processes.ipynb.
"""

import os
import secrets
from multiprocessing import resource_tracker
from typing import NamedTuple, Self

__all__ = ["AnonymousMemory", "NamedMemory"]


class AnonymousMemory:
    """A file in memory without a name (Linux); it ends with the last process that has it open.

    Source: Linux manual pages, memfd_create(2) and proc_pid_fd(5).

    Args:
        fd: An open file descriptor, which it takes over.
    """

    class Handle(NamedTuple):
        """Where a process of the same user finds it, and how it knows that it is the right one."""

        pid: int
        fd: int
        device: int
        inode: int

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def make(cls, size_bytes: int) -> Self:
        """New memory, filled with zeros."""
        fd = os.memfd_create("companion", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size_bytes)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    @classmethod
    def find(cls, handle: Handle) -> Self:
        """The memory that another process, or this one, holds open.

        Raises:
            FileNotFoundError: If that process has ended or has closed it.
        """
        gone = FileNotFoundError(
            f"expected process {handle.pid} to hold the memory that it has handed over, but it "
            "has ended or has closed it"
        )
        try:
            fd = os.open(f"/proc/{handle.pid}/fd/{handle.fd}", os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise gone from None
        found = os.fstat(fd)
        # Process ids and descriptors are used again.
        if (found.st_dev, found.st_ino) != (handle.device, handle.inode):
            os.close(fd)
            raise gone
        return cls(fd)

    def handle(self) -> Handle:
        """What ``find`` needs."""
        mine = os.fstat(self.fd)
        return self.Handle(os.getpid(), self.fd, mine.st_dev, mine.st_ino)

    def close(self) -> None:
        """Close this process's way to it; mappings stay."""
        os.close(self.fd)


class NamedMemory:
    """A file in memory with a name, for systems without ``memfd_create``.

    The process that made it removes the name. Should that one be killed, Python's resource tracker
    does, once all processes are gone that share it.

    Source: POSIX, shm_open. Difference to ``multiprocessing.shared_memory`` before Python 3.13:
    only the maker tells the tracker about it. There, a process of another tracker that merely
    attaches takes the name away from all others when it ends (Python issue 82300).

    Args:
        name: Its name.
        fd: An open file descriptor, which it takes over.
        maker_pid: The process that removes the name.
        made_here: Whether this object is the one that removes it, and no second view of it.
    """

    def __init__(self, name: str, fd: int, *, maker_pid: int, made_here: bool = False) -> None:
        self.name, self.fd, self._maker_pid, self._made_here = name, fd, maker_pid, made_here

    @classmethod
    def make(cls, size_bytes: int) -> Self:
        """New memory, filled with zeros.

        Raises:
            OSError: If there is not so much of it: containers often have 64 MiB.
        """
        import _posixshmem  # not on all systems

        name = f"/companion-{os.getpid()}-{secrets.token_hex(4)}"  # macOS allows 31 characters
        fd = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
        resource_tracker.register(name, "shared_memory")
        made = cls(name, fd, maker_pid=os.getpid(), made_here=True)
        try:
            os.ftruncate(fd, size_bytes)
            if hasattr(os, "posix_fallocate"):  # or a lack is noticed at the first write: SIGBUS
                os.posix_fallocate(fd, 0, size_bytes)
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def find(cls, handle: tuple[str, int]) -> Self:
        """The memory of a name.

        Raises:
            FileNotFoundError: If the name has been removed.
        """
        import _posixshmem

        name, maker_pid = handle
        try:
            fd = _posixshmem.shm_open(name, os.O_RDWR, mode=0o600)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"expected process {maker_pid} to hold the memory {name} that it has handed over, "
                "but it has ended or has closed it"
            ) from None
        return cls(name, fd, maker_pid=maker_pid)

    def handle(self) -> tuple[str, int]:
        """What ``find`` needs."""
        return self.name, self._maker_pid

    def close(self) -> None:
        """Close this process's way to it, its maker for all; mappings stay."""
        os.close(self.fd)
        if self._made_here and os.getpid() == self._maker_pid:  # and not in a fork of it
            import _posixshmem

            _posixshmem.shm_unlink(self.name)
            resource_tracker.unregister(self.name, "shared_memory")
