"""A file that is written whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside ``path``, flush to the disk, then rename.

    Whatever happens, a process killed here leaves either the old file or the new one, whole.

    Args:
        path: The file; its folder exists.
        write: Writes all of the content to the path that it is given.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "log.jsonl"
        >>> write_whole(file, lambda partial: partial.write_text("a line"))
        >>> file.read_text(), len(list(file.parent.iterdir()))
        ('a line', 1)
    """
    partial = path.with_name(path.name + ".partial")
    write(partial)
    _flush(partial)
    os.replace(partial, path)
    if os.name == "posix":  # the new name is safe once its folder is on the disk
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
