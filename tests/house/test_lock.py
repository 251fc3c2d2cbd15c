"""pyproject.toml, constraints.txt and environment.yml say the same, and pip can do it."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import bootstrap

ROOT = Path(bootstrap.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
LINES = [
    line
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
PINS = {canonicalize_name(Requirement(line).name): Requirement(line) for line in LINES}
DIRECT = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in group
]
# Installed for what they contain or do, not because something requires them.
ROOTS = {
    "pip",
    "setuptools",
    *(canonicalize_name(r.split("==")[0]) for r in bootstrap.WITHOUT_DEPENDENCIES),
}
SYSTEMS = [
    {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": platform,
        "platform_system": system,
        "platform_machine": machine,
    }
    for python in ("3.11", "3.12", "3.13")
    for platform, system, machine in [
        ("linux", "Linux", "x86_64"),
        ("linux", "Linux", "aarch64"),
        ("darwin", "Darwin", "arm64"),
    ]
]


def needed(system: dict[str, str]) -> Iterator[Requirement]:
    """Direct requirements and, from the installed packages' metadata, all that follow from them."""
    environment = {**default_environment(), **system}
    waiting = [(requirement, "") for requirement in DIRECT]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        yield requirement
        name = canonicalize_name(requirement.name)
        new = {(name, e) for e in ("", *requirement.extras)} - seen
        seen |= new
        for _, wanted in new:
            try:
                lines = distribution(name).requires or []
            except PackageNotFoundError:  # on another system only; its pin is checked all the same
                continue
            waiting += [(Requirement(line), wanted) for line in lines]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: " ".join([*s.values()][::2]))
def test_everything_needed_is_pinned_within_its_range(system: dict[str, str]) -> None:
    wrong = []
    for requirement in needed(system):
        pin = PINS.get(canonicalize_name(requirement.name))
        version = str(pin.specifier).removeprefix("==") if pin else ""
        # torch's CUDA build brings its nvidia packages, pinned by itself; the CPU build has none.
        if not pin or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} is pinned as {pin}")
    assert wrong == []


def test_nothing_else_is_pinned() -> None:
    names = {canonicalize_name(r.name) for system in SYSTEMS for r in needed(system)}
    assert set(PINS) - names - ROOTS == set()


def test_pins_are_exact_public_versions() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[\w.-]+==[\w.!]+(?:; .+)?", line)] == []
    assert len(LINES) == len(PINS)
    for chosen in [*bootstrap.CHOSEN, *bootstrap.WITHOUT_DEPENDENCIES]:
        assert chosen in LINES


def test_lock_keeps_public_versions_and_the_lines_for_other_systems(tmp_path: Path) -> None:
    frozen = ["torch==2.13.0+cpu", "Babel==2.18.0", "companion @ file:///tmp/x", "attrs==26.1.0"]
    previous = tmp_path / "constraints.txt"
    previous.write_text(f"old==1\n{bootstrap.OTHER_SYSTEMS}mac==2; sys_platform == 'darwin'\n")
    text = bootstrap.lock_text(frozen, previous).removeprefix(bootstrap.LOCK_HEADER)
    pins, others = text.split(bootstrap.OTHER_SYSTEMS)
    assert pins.splitlines() == ["attrs==26.1.0", "Babel==2.18.0", "torch==2.13.0"]
    assert others == "mac==2; sys_platform == 'darwin'\n"


def test_installed_versions_are_the_pinned_ones() -> None:
    environment = default_environment()
    pinned = [pin for pin in PINS.values() if not pin.marker or pin.marker.evaluate(environment)]
    here = {pin.name: Version(distribution(pin.name).version).public for pin in pinned}
    wrong = {name: version for name, version in here.items() if f"{name}=={version}" not in LINES}
    assert wrong == {}


def test_conda_users_get_the_same() -> None:
    *conda, last = ENVIRONMENT["dependencies"]
    python = next(entry for entry in conda if entry.startswith("python="))
    extras = ",".join(PROJECT["optional-dependencies"])
    assert set(last) == {"pip"}
    assert last["pip"] == ["-c constraints.txt", f"-e .[{extras}]"]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(
        python.removeprefix("python=")
    )
    words = " ".join(last["pip"]).split()
    assert bootstrap.pip_part((ROOT / "environment.yml").read_text("utf-8")) == words
    for package in bootstrap.WITHOUT_DEPENDENCIES:
        command = f"pip install --no-deps -c constraints.txt {package.split('==')[0]}"
        assert command in (ROOT / "environment.yml").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pip_part_installs_in_a_clean_environment(tmp_path: Path) -> None:
    """For real under CI. In `make test-cpus` pip stops once it has found and checked every package.

    A person's `make` has just installed the same lines, and 3 GB twice is much to ask of a laptop.
    """
    on_ci = "CI" in os.environ
    if not on_ci and "CHECK_LOCK_FILES" not in os.environ:
        pytest.skip("depends on the lock files alone: runs in CI and in `make test-cpus`")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True, timeout=120)
    pip = [str(tmp_path / "bin" / "python"), "-m", "pip", "install", "--no-compile"]
    wanted = " ".join(ENVIRONMENT["dependencies"][-1]["pip"]).split()
    done = subprocess.run(
        [*pip, *([] if on_ci else ["--dry-run"]), *wanted],
        cwd=ROOT,
        env=bootstrap.clean_environment(),
        capture_output=True,
        text=True,
    )
    reason = bootstrap.explain(done.stdout + done.stderr)
    if done.returncode and not on_ci and reason.startswith("no network"):
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, reason
    last = done.stdout.rstrip().rpartition("\n")[2]
    assert last.startswith("Successfully installed" if on_ci else "Would install")
    assert " torch-2.13.0" in last
    assert " jupyterlab-4.5" in last
