"""A cache folder that is written whole or not at all, and checked before it is used.

Beside its files a folder holds ``manifest.json``: what the files were built from, and the size
and SHA-256 of each. A folder that does not match its manifest counts as absent.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["built_folder", "cache_root"]

_MANIFEST = "manifest.json"


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

    Two processes may ask at once: each builds in a folder of its own, and one is kept.

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
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{name}.building.") as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            build(fresh)
            _write_manifest(fresh, source)
            _replace(folder, fresh, Path(scratch) / "old", source)
    except OSError as error:
        raise OSError(
            f"cannot write the cache {folder}: {error}; free some space, or set COMPANION_CACHE "
            "to a folder with room"
        ) from error
    return folder


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
