"""A cache folder that is written whole or not at all, and checked before it is used.

Beside its files a folder holds ``manifest.json``: what the files were built from, and the size
and SHA-256 of each. A folder that does not match its manifest counts as absent.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed build left stays there
    fcntl = None

__all__ = ["built_folder", "cache_root"]

_MANIFEST = "manifest.json"
_YOUNG_S = 60  # a build this young may not have locked its folder yet


def cache_root() -> Path:
    """Folder for everything this package may build again.

    ``COMPANION_CACHE`` if set, else ``companion`` in the place that the platform keeps for caches:
    ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, ``~/Library/Caches`` on macOS,
    ``%LOCALAPPDATA%`` on Windows.
    """
    if chosen := os.environ.get("COMPANION_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "companion"
    variable, fallback = (
        ("LOCALAPPDATA", Path.home() / "AppData" / "Local")
        if sys.platform == "win32"
        else ("XDG_CACHE_HOME", Path.home() / ".cache")
    )
    return Path(os.environ.get(variable) or fallback) / "companion"


def built_folder(name: str, source: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, built first if it is absent, damaged or out of date.

    Two processes may ask at once: each builds in a folder of its own, and one is kept. What a
    killed build left behind goes at the next one.

    Args:
        name: Folder name below ``cache_root()``.
        source: What the content is made from (JSON values); another source means a new build.
        build: Writes the files into the empty folder it is given.

    Raises:
        OSError: If the cache cannot be written; the message names ``COMPANION_CACHE``.
    """
    folder = cache_root() / name
    if _is_sound(folder, source):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_the_rest_of_killed_builds(folder)
        with _scratch(folder) as scratch:
            fresh = scratch / "fresh"
            fresh.mkdir()
            build(fresh)
            _write_manifest(fresh, source)
            _replace(folder, fresh, scratch / "old", source)
    except OSError as error:
        raise OSError(
            f"cannot write the cache {folder}: {error}; free some space, or set COMPANION_CACHE "
            "to a folder with room"
        ) from error
    return folder


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder``, locked while it is in use: the system frees it with us."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.building.") as name:
        lock = _locked(Path(name))
        try:
            yield Path(name)
        finally:
            if lock is not None:
                os.close(lock)


def _remove_the_rest_of_killed_builds(folder: Path) -> None:
    for rest in folder.parent.glob(f"{folder.name}.building.*"):
        try:
            lock = _locked(rest) if time.time() - rest.stat().st_mtime > _YOUNG_S else None
        except OSError:  # its own process has just removed it
            continue
        if lock is not None:
            shutil.rmtree(rest, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock, or None: another process has it."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _replace(folder: Path, fresh: Path, old: Path, source: Mapping[str, object]) -> None:
    if folder.exists():
        if _is_sound(folder, source):  # another process was quicker
            return
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if not _is_sound(folder, source):
            raise


def _write_manifest(folder: Path, source: Mapping[str, object]) -> None:
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    text = json.dumps({"source": dict(source), "files": files}, indent=1)
    (folder / _MANIFEST).write_text(text, encoding="utf-8")


def _is_sound(folder: Path, source: Mapping[str, object]) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return manifest["source"] == dict(source) and all(
            _fingerprint(folder / name) == expected for name, expected in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _fingerprint(path: Path) -> list:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
