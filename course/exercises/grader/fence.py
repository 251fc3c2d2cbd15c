"""The fence around a kernel, which runs what strangers wrote.

Where Linux allows it without root (`fence.sh`), a kernel sees Python, the package and a copy of its
own folder; it has no network, no right, and no process but its own. Its memory, files and processes
are limited (`kernel.py`), and a watcher ends it when all its processes together use too much.
Only the kernel is inside: the grader holds the hidden tests and the gradebook.
"""

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Thread

import psutil
import zmq
from jupyter_client import AsyncKernelManager
from traitlets import Bool, Float, default

__all__ = ["FencedKernel", "why_not_fenced"]

HERE = Path(__file__).resolve().parent
TOOLS = ("unshare", "setpriv", "mount", "umount", "pivot_root")  # of util-linux
# What programs need to start and to know the time; no file of a user, no secret of the machine.
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys/devices/system"),
    *("/etc/alternatives", "/etc/fonts", "/etc/group", "/etc/ld.so.cache", "/etc/localtime"),
    *("/etc/nsswitch.conf", "/etc/passwd"),
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
)
# Of the environment, the names that begin so; a teacher's tokens stay outside.
PASSED_ON = (
    *("LANG", "LC_", "TZ", "LD_LIBRARY_PATH", "NBGRADER_"),
    *("OMP_", "MKL_", "OPENBLAS_", "ATEN_", "TRITON_"),
)

GIB, MIB = 2**30, 2**20
DISK_SHARE = 0.25  # a fenced kernel's files are in memory: so much of what it may use
MAX_OPEN, MAX_PROCESSES = 512, 256
MAX_SOCKETS = 16 * MIB  # in the one folder that a kernel shares with the grader
MAX_MESSAGE = 4_000_000  # bytes; kernel.py sends less, and a connection that brings more is cut
WATCH_S = 0.2


def fence(folder: Path, mib: int, command: list[str]) -> list[str]:
    """The command that runs ``command`` fenced; its files fill at most ``mib``.

    ``folder`` has an empty folder `root`, for the new world, and `run`, which both worlds see.
    """
    package = importlib.util.find_spec("companion")
    python = {sys.prefix, sys.base_prefix, *(package.submodule_search_locations if package else [])}
    visible = [*SYSTEM, *sorted(path for path in python if not path.startswith("/usr/"))]
    course = str(HERE.parents[1])
    hidden = [course] if any(course.startswith(f"{path}/") for path in visible) else []
    # The superuser becomes nobody in particular, another one for each grader; others stay who
    # they are, and are the superuser of a world of their own until all is in place.
    root = os.geteuid() == 0
    user = 20_000 + os.getpid() % 40_000 if root else 0
    return [
        *("setpriv", "--pdeathsig=KILL", "unshare", *([] if root else ["--map-root-user"])),
        *("--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"),
        *("sh", str(HERE / "fence.sh"), str(folder), str(user), str(mib)),
        *(*visible, "--", *hidden, "--", *command),
    ]


@functools.cache
def why_not_fenced() -> str:
    """What keeps this system from fencing a kernel, in one line; empty when nothing does."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # as fence.sh extends it
    if missing := [tool for tool in TOOLS if not shutil.which(tool, path=path)]:
        return f"no {', '.join(missing)} here (they are part of util-linux, on Linux)"
    with tempfile.TemporaryDirectory() as name:
        folder = _empty(Path(name))
        command = fence(folder, 1, [sys.executable, "-c", "import ipykernel"])
        try:
            done = subprocess.run(
                command, cwd=folder / "run", capture_output=True, text=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired:
            return "a fenced Python did not start in 60 s"
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return said[-1] if done.returncode else ""


def _empty(folder: Path) -> Path:
    for name in ("root", "run", "home"):
        (folder / name).mkdir()
    return folder


class FencedKernel(AsyncKernelManager):
    """A kernel behind the fence or, where that is not to be had, one with limits alone."""

    fenced = Bool(help="put the kernel behind the fence; default: where it works").tag(config=True)
    memory_gib = Float(4, help="GiB for all processes of one kernel together").tag(config=True)
    ended = ""  # why the watcher ended the kernel

    @default("fenced")
    def _where_it_works(self) -> bool:
        if reason := why_not_fenced():
            self.log.warning("A kernel runs without a fence: %s.", reason)
        return not reason

    @default("connection_file")
    def _in_a_folder_of_its_own(self) -> str:
        return str(_empty(Path(tempfile.mkdtemp(prefix="kernel"))) / "run" / "kernel.json")

    @property
    def _folder(self) -> Path:
        return Path(self.connection_file).parents[1]

    @default("transport")
    def _through_files(self) -> str:
        return "ipc"  # no port, so no network, and two kernels never want the same one

    def client(self, **options):
        """The grader's end of the sockets: it holds little of what a kernel sends."""
        client = super().client(**options)
        client.context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        client.context.setsockopt(zmq.RCVHWM, 100)
        return client

    async def _async_pre_start_kernel(self, **options):
        options.setdefault("cwd", str(self._folder / "home"))
        command, options = await super()._async_pre_start_kernel(**options)
        home = Path("/home") if self.fenced else self._folder / "home"
        command = command[command.index("ipykernel_launcher") + 1 :]
        text = (HERE / "kernel.py").read_text()
        command = [sys.executable, "-c", text, json.dumps(self._limits()), *command]
        command = ["env", "-i", *self._environment(home), *command]
        if self.fenced:
            command = fence(self._folder, self._limits()["RLIMIT_FSIZE"] // MIB, command)
        elif shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig=KILL", *command]
        # The grader's own output is no place for a student's.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return command, options | quiet

    def _limits(self) -> dict[str, int]:
        """For each process. An address space may be large (CUDA's is): what counts is what is used.

        Without the fence the number of processes would count all that the user has.
        """
        memory = int(self.memory_gib * GIB)
        limits = {"RLIMIT_DATA": memory, "RLIMIT_FSIZE": int(memory * DISK_SHARE)}
        limits |= {"RLIMIT_NOFILE": MAX_OPEN, "RLIMIT_CORE": 0}
        return limits | ({"RLIMIT_NPROC": MAX_PROCESSES} if self.fenced else {})

    def _environment(self, home: Path) -> list[str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        kept |= {"HOME": str(home), "IPYTHONDIR": str(home / ".ipython")}
        kept["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        if not self.fenced:
            kept["JPY_PARENT_PID"] = str(os.getpid())  # with which it ends
        return [f"{name}={value}" for name, value in kept.items()]

    async def _async_post_start_kernel(self, **options):
        await super()._async_post_start_kernel(**options)
        kernel = self.provisioner.process
        watched = kernel, psutil.Process(kernel.pid)
        self._watcher = Thread(target=self._watch, args=watched, daemon=True)
        self._watcher.start()

    def _watch(self, kernel: subprocess.Popen, first: psutil.Process) -> None:
        """End the kernel when it grows too large, and what it started when it ends."""
        family = set()
        while kernel.poll() is None and not self.ended:
            family = _family(first) or family
            self.ended = self._too_much(family)
            with contextlib.suppress(subprocess.TimeoutExpired):
                kernel.wait(0 if self.ended else WATCH_S)
        stopped = set()
        while new := (family | _family(first)) - stopped:
            stopped |= new
            _send(signal.SIGSTOP, new)  # first: who is stopped starts nothing that would be missed
        _send(signal.SIGKILL, stopped)

    def _too_much(self, family: set[psutil.Process]) -> str:
        if sum(map(_resident, family)) > self.memory_gib * GIB:
            return f"It used more than {self.memory_gib:g} GiB of memory."
        if len(family) > MAX_PROCESSES:
            return f"It started more than {MAX_PROCESSES} processes."
        if _size(self._folder / "run") > MAX_SOCKETS:
            return "It wrote where only its sockets belong."
        return ""

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart)
        self._watcher.join()
        shutil.rmtree(self._folder, ignore_errors=True)


def _family(first: psutil.Process) -> set[psutil.Process]:
    try:
        return {first, *first.children(recursive=True)}
    except psutil.NoSuchProcess:  # nor another one that got its number
        return set()


def _send(signal_number: int, processes: set[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _size(folder: Path) -> int:
    """Bytes on disk, and one block for each name."""
    blocks = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            try:
                blocks += 8 + os.lstat(os.path.join(parent, name)).st_blocks
            except FileNotFoundError:
                continue
    return 512 * blocks
