"""Fetching pinned JavaScript: only what is pinned, whole or not at all, and once."""

import base64
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
import vendor


def archive(files: dict[str, bytes]) -> bytes:
    """An npm archive that holds these files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


ARCHIVE = archive({"package/dist/a.js": b"one", "package/dist/b.js": b"two", "package/c.md": b""})
INTEGRITY = "sha512-" + base64.b64encode(hashlib.sha512(ARCHIVE).digest()).decode()


@pytest.fixture
def downloads(monkeypatch, tmp_path) -> list[str]:
    """A project folder of its own, one pinned package, and a list of what was downloaded."""
    pin = {
        "package": "thing@1.0.0",
        "integrity": INTEGRITY,
        "folder": "made/thing",
        "files": ["package/dist/*.js"],
    }
    asked = []

    def download(package: str, into: Path) -> Path:
        asked.append(package)
        (into / "thing.tgz").write_bytes(ARCHIVE)
        return into / "thing.tgz"

    monkeypatch.setattr(vendor, "HERE", tmp_path)
    monkeypatch.setattr(vendor, "PINS", {"thing": pin})
    monkeypatch.setattr(vendor, "_download", download)
    return asked


def test_only_the_named_files_are_kept_and_git_ignores_them(downloads):
    folder = vendor.fetch("thing")
    assert sorted(p.name for p in folder.iterdir()) == ["a.js", "b.js", "integrity"]
    assert (folder / "b.js").read_bytes() == b"two"
    assert (folder.parent / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_a_second_fetch_asks_nobody(downloads):
    assert vendor.fetch("thing") == vendor.fetch("thing")
    assert downloads == ["thing@1.0.0"]


def test_a_changed_pin_replaces_the_old_files(downloads):
    folder = vendor.fetch("thing")
    (folder / "integrity").write_text("sha512-older", encoding="utf-8")
    (folder / "a.js").write_bytes(b"old")
    assert (vendor.fetch("thing") / "a.js").read_bytes() == b"one"
    assert len(downloads) == 2


def test_another_archive_than_the_pinned_one_is_refused(downloads, tmp_path):
    vendor.PINS["thing"]["integrity"] = "sha512-somethingelse"
    with pytest.raises(RuntimeError, match=r"thing@1\.0\.0: expected sha512-somet.*, got sha512-"):
        vendor.fetch("thing")
    assert not (tmp_path / "made" / "thing").exists()


def test_a_file_that_is_not_in_the_archive_is_an_error(downloads, tmp_path):
    vendor.PINS["thing"]["files"] = ["package/none.js"]
    with pytest.raises(RuntimeError, match=r"expected package/none\.js"):
        vendor.fetch("thing")
    assert not (tmp_path / "made" / "thing").exists()


def npm_that(returncode: int, hangs: bool = False):
    def run(command, **options):
        if hangs:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, returncode, "", "ENOTFOUND")

    return run


@pytest.mark.parametrize(
    ("hangs", "message"), [(False, "Is there a network"), (True, "no answer from npm")]
)
def test_without_a_network_there_is_one_clear_line(monkeypatch, tmp_path, hangs, message):
    monkeypatch.setattr(vendor.subprocess, "run", npm_that(1, hangs))
    monkeypatch.setattr(vendor.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "npm").touch()
    with pytest.raises(RuntimeError, match=message) as caught:
        vendor._download("thing@1.0.0", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_npm_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(vendor.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match="npm is missing"):
        vendor._download("thing@1.0.0", tmp_path)
