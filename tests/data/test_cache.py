"""A cached folder is whole, sound and up to date, or it is built again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from companion.data.cache import built_folder, cache_root

SOURCE = {"layout": 1, "file": "x.gguf"}


class Builder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "weights.bin").write_bytes(b"weights" * 1000)
        (folder / "config.json").write_text("{}")


@pytest.fixture
def build(tmp_path, monkeypatch) -> Builder:
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "cache"))
    return Builder()


def test_second_use_reads_the_first_build(build):
    first = built_folder("model", SOURCE, build)
    assert built_folder("model", SOURCE, build) == first
    assert build.calls == 1
    assert [path.name for path in first.parent.iterdir()] == ["model"]


def truncate(folder: Path) -> None:
    os.truncate(folder / "weights.bin", 100)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "weights.bin").read_bytes())
    content[3000] ^= 1
    (folder / "weights.bin").write_bytes(content)


def remove_a_file(folder: Path) -> None:
    (folder / "config.json").unlink()


def remove_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def break_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"source": ')


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit,
        remove_a_file,
        remove_the_manifest,
        break_the_manifest,
        empty_the_manifest,
    ],
)
def test_damage_is_noticed_and_repaired(build, damage):
    folder = built_folder("model", SOURCE, build)
    damage(folder)
    assert built_folder("model", SOURCE, build) == folder
    assert build.calls == 2
    assert (folder / "weights.bin").read_bytes() == b"weights" * 1000
    assert (folder / "config.json").exists()
    assert built_folder("model", SOURCE, build) == folder
    assert build.calls == 2


def test_another_source_builds_again(build):
    built_folder("model", SOURCE, build)
    folder = built_folder("model", SOURCE | {"layout": 2}, build)
    assert build.calls == 2
    assert json.loads((folder / "manifest.json").read_text())["source"]["layout"] == 2


def test_failed_build_leaves_nothing(build):
    def fail(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        built_folder("model", SOURCE, fail)
    assert list(cache_root().iterdir()) == []


def test_killed_build_is_not_taken_for_a_whole_one(build):
    code = """
import os, signal
from companion.data.cache import built_folder
def build(folder):
    (folder / "weights.bin").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
built_folder("model", {"layout": 1, "file": "x.gguf"}, build)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=250).returncode != 0
    folder = built_folder("model", SOURCE, build)
    assert (folder / "weights.bin").read_bytes() == b"weights" * 1000


def test_the_quicker_of_two_builders_is_kept(build):
    def build_while_another_finishes(folder: Path) -> None:
        built_folder("model", SOURCE, build)
        (folder / "weights.bin").write_bytes(b"slower")

    folder = built_folder("model", SOURCE, build_while_another_finishes)
    assert (folder / "weights.bin").read_bytes() == b"weights" * 1000


def test_a_build_happens_beside_its_place(build):
    """Elsewhere could be another disk, and a folder is not renamed from one disk to another."""
    places = []
    built_folder("model", SOURCE, lambda folder: places.append(folder) or build(folder))
    assert places[0].is_relative_to(cache_root())


@pytest.mark.parametrize("other_is_sound", [True, False])
def test_a_place_taken_at_the_last_moment(build, monkeypatch, other_is_sound):
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        if other_is_sound:
            built_folder("model", SOURCE, build)
        else:
            (target / "stranger").mkdir(parents=True)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    if other_is_sound:
        folder = built_folder("model", SOURCE, build)
        assert (folder / "weights.bin").read_bytes() == b"weights" * 1000
    else:
        with pytest.raises(OSError, match="cannot write the cache"):
            built_folder("model", SOURCE, build)


def test_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("COMPANION_CACHE", "~/somewhere")
    assert cache_root() == Path.home() / "somewhere"


def test_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write the cache .*set COMPANION_CACHE"):
        built_folder("model", SOURCE, Builder())


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "{set}/companion"),
        ("linux", None, "{home}/.cache/companion"),
        ("darwin", None, "{home}/Library/Caches/companion"),
        ("win32", "LOCALAPPDATA", "{set}/companion"),
        ("win32", None, "{home}/AppData/Local/companion"),
    ],
)
def test_place_follows_the_platform(monkeypatch, tmp_path, platform, variable, expected):
    home, chosen = tmp_path / "home", tmp_path / "chosen"
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: home)
    for name in ("COMPANION_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(chosen))
    assert cache_root() == Path(expected.format(home=home, set=chosen))


@pytest.mark.skipif(os.name != "posix", reason="locks and SIGKILL are POSIX")
def test_the_next_build_removes_what_a_killed_one_left_and_spares_a_running_one(build):
    """A folder of building is a rest if nobody holds it, and not just made."""
    code = """
import os, signal, sys, time
from companion.data.cache import built_folder
def build(folder):
    (folder / "weights.bin").write_bytes(b"half")
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("building", flush=True)
    time.sleep(600)
built_folder("model", {"layout": 1, "file": "x.gguf"}, build)
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run([*command, "die"], timeout=250, check=False).returncode != 0
    (rest,) = cache_root().iterdir()
    with subprocess.Popen([*command, "wait"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "building\n"
        (other,) = set(cache_root().iterdir()) - {rest}
        for folder in (rest, other):
            os.utime(folder, (0, 0))
        built_folder("model", SOURCE, build)
        assert {path.name for path in cache_root().iterdir()} == {"model", other.name}
        running.kill()
    young = cache_root() / "model.building.young"
    young.mkdir()
    built_folder("model", {"layout": 2}, build)
    assert young.exists()
