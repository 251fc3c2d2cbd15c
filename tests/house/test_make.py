"""The commands that people and machines type: make's targets, .ci/run, the workflows, the hooks."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMISED = [
    *("lab", "test", "help", "book", "serve", "bench", "exercises", "grade", "chapter"),
    *("test-unit", "test-site", "test-nb", "test-gpu", "test-cpus", "check"),
    *("format", "lint", "clean"),
]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # These tests may themselves have been started by make, which talks to its children so.
    clean = {
        key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")
    }
    return subprocess.run(
        ["make", *words], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=250
    )


def test_help_explains_every_promised_target() -> None:
    listed = dict(re.findall(r"^  make ([a-z-]+)\s+(\S.*)$", make("help").stdout, re.MULTILINE))
    assert set(PROMISED) - set(listed) == set()


@pytest.mark.parametrize("target", PROMISED)
def test_target_can_be_made(target: str) -> None:
    done = make("--dry-run", target, "NB=course/x.ipynb")
    assert done.returncode == 0, done.stderr
    needs_nothing = {"help", "clean"}
    assert ("bootstrap.py" in done.stdout) == (target not in needs_nothing)


def test_the_tests_leave_no_way_out() -> None:
    """What the stages are: ``test_stages.py``. No error of a recipe is ignored."""
    for words, ends in {
        ("test",): "tests/stages.py test",
        ("test-unit",): "tests/stages.py test unit",
        ("test-site",): "tests/stages.py test book site",
        ("test-nb",): "tests/stages.py test chapters",
        ("check", "SLUG=lora flash"): "tests/stages.py check lora flash",
        ("test-cpus", "SLUG=lora"): "tests/stages.py cpus lora",
    }.items():
        setup, command = make("--dry-run", *words).stdout.splitlines()[-2:]
        assert setup.endswith("bootstrap.py")
        assert command.rstrip() == f".venv/bin/python {ends}"
    recipes = re.findall(r"^\t(\S+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert [word for word in recipes if word.lstrip("@").startswith("-")] == []


def test_the_site_is_served_to_this_machine_only() -> None:
    assert "--bind 127.0.0.1" in make("--dry-run", "serve").stdout


def test_clean_keeps_the_environment() -> None:
    assert ".venv" not in make("--dry-run", "clean").stdout


def test_lab_passes_flags_and_keeps_its_token_and_its_address() -> None:
    command = make("--dry-run", "lab", "LAB_FLAGS=--no-browser --port=8899").stdout
    assert "--ip=127.0.0.1" in command
    assert command.rstrip().endswith("--no-browser --port=8899")
    assert "token" not in command
    assert "password" not in command


def test_missing_python_is_told_in_one_line() -> None:
    done = make("setup", "PYTHON=python-that-is-not-here")
    assert done.returncode == 2
    assert done.stderr.startswith("set-up: no python-that-is-not-here here; install Python 3.11")


def run_ci(
    folder: Path, *, chromium: bool, make_exits: int = 0, apt_exits: int = 0
) -> tuple[int, list[str]]:
    """Exit code of .ci/run and the commands it gave, on a machine made of stand-ins."""
    (folder / "bin").mkdir()
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    for tool in ("bash", "dirname", "env", "sh"):
        (folder / "bin" / tool).symlink_to(shutil.which(tool))
    stand_ins = {"apt-get": apt_exits, "make": make_exits, **({"chromium": 0} if chromium else {})}
    for tool, code in stand_ins.items():
        script = f'#!/bin/sh\necho "{tool} $@" >> "$COMMANDS"\n[ -d .ci ] || exit 99\nexit {code}\n'
        (folder / "bin" / tool).write_text(script, "utf-8")
        (folder / "bin" / tool).chmod(0o755)
    (folder / "bin" / "id").write_text("#!/bin/sh\necho 0\n", "utf-8")
    (folder / "bin" / "id").chmod(0o755)
    log = folder / "commands"
    environment = {"PATH": str(folder / "bin"), "COMMANDS": str(log), "CI": "true"}
    command = ["bash", str(folder / ".ci" / "run")]
    elsewhere = folder / "bin"  # the script finds its project from wherever it is called
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, stdin=subprocess.DEVNULL, timeout=250
    )
    return done.returncode, log.read_text("utf-8").splitlines()


def test_ci_installs_chromium_then_tests(tmp_path: Path) -> None:
    code, commands = run_ci(tmp_path, chromium=False)
    assert code == 0
    assert [command.split()[:2] for command in commands[:-1]] == [
        ["apt-get", "update"],
        ["apt-get", "install"],
    ]
    assert commands[1].endswith(" chromium")
    assert commands[-1] == "make test"


def test_ci_installs_nothing_twice(tmp_path: Path) -> None:
    assert run_ci(tmp_path, chromium=True) == (0, ["make test"])


def test_ci_fails_when_a_test_fails(tmp_path: Path) -> None:
    assert run_ci(tmp_path, chromium=True, make_exits=2)[0] == 2


def test_ci_stops_when_chromium_cannot_be_installed(tmp_path: Path) -> None:
    code, commands = run_ci(tmp_path, chromium=False, apt_exits=100)
    assert code == 100
    assert [command.split()[0] for command in commands] == ["apt-get"]


def test_workflows_call_what_people_call() -> None:
    runs = {}
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"].values()
        runs[path.stem] = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert runs == {"ci": [".ci/run"], "pages": ["make book"]}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_one_ruff_for_everything() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    pinned = [r for r in project["project"]["optional-dependencies"]["dev"] if r.startswith("ruff")]
    assert pinned[0] in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)
    ruffs = [hook for hook in hooks if "ruff" in hook["entry"]]
    assert len(ruffs) == 2
    assert all("jupyter" in hook["types_or"] for hook in ruffs)
