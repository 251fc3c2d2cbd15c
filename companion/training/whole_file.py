"""A file that is written whole or not at all, and by one process at a time.

Whatever is written lies first in the folder ``<file>.partial`` beside the file. A process killed
there leaves that folder behind; the next one to write the file, or to train with it, removes it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two runs that write one file are not noticed there
    fcntl = None

__all__ = ["drop_partial", "sole_writer", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside ``path``, flush to the disk, then rename.

    Whatever happens, a process killed here leaves either the old file or the new one, whole. The
    file gets the mode that any new file gets here. A link stays a link, to the new content.

    Args:
        path: The file; its folder exists.
        write: Writes all of the content to the path that it is given.

    Raises:
        OSError: As the system says, with the path; no room, say. The old file is whole then.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "log.jsonl"
        >>> write_whole(file, lambda partial: partial.write_text("a line"))
        >>> file.read_text(), len(list(file.parent.iterdir()))
        ('a line', 1)
    """
    path = Path(os.path.realpath(path))
    drop_partial(path)
    folder = _partial(path)
    try:
        folder.mkdir()
        partial = folder / path.name
        partial.touch()
        mode = partial.stat().st_mode & 0o777
        write(partial)  # safetensors has files of its own on the way, and ends with mode 600
        partial.chmod(mode)
        _flush(partial)
        os.replace(partial, path)
        if os.name == "posix":  # the new name is safe once its folder is on the disk
            _flush(path.parent)
    finally:
        drop_partial(path)


def drop_partial(path: Path) -> None:
    """Remove what a process that was killed while it wrote ``path`` left behind."""
    partial = _partial(Path(os.path.realpath(path)))
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Within the context no other process can say the same of ``path``; its end frees it always.

    Raises:
        OSError: Another process is within it.
    """
    lock = path.with_name(path.name + ".lock")
    while fcntl is not None:
        file = lock.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OSError(
                f"expected to be the only run that writes {path}, got another one that has not "
                "ended; wait for it, or write to another file"
            ) from None
        except OSError:  # a file system without locks
            file.close()
            break
        if lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno())):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
                file.close()
            return
        file.close()  # the one before us removed it in between
    yield


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
