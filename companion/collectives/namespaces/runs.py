"""torchrun on several hosts at once: what they print is collected, and all end together.

Chapter: course/11_collectives.ipynb.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Protocol

__all__ = ["HostFailed", "RunningHost", "run_on_hosts"]

_PORT = "29500"  # always free: every host has all ports to itself


class RunningHost(Protocol):
    """What is asked of a host; ``companion.collectives.namespaces.network.Host`` has it."""

    address: str
    interface: str

    def command(self, *command: str) -> list[str]: ...
    def pids(self) -> list[int]: ...


class HostFailed(RuntimeError):
    """A host's torchrun failed or did not end in time.

    Attributes:
        host: Its number.
        output: What it had printed.
    """

    def __init__(self, message: str, *, host: int, output: str) -> None:
        super().__init__(f"{message}:\n{output[-2000:]}")
        self.host, self.output = host, output


class _Run:
    """torchrun on one host; a thread reads what it prints."""

    def __init__(self, number: int, host: RunningHost, command: list[str], *, echo: bool) -> None:
        self.number, self.host, self.echo = number, host, echo
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            host.command(*command),
            env=_environment(host.interface),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self.reader = threading.Thread(target=self._read, name=f"host {number}", daemon=True)
        self.reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if self.echo:
                print(f"host {self.number} | {line}", end="", flush=True)

    def close(self) -> None:
        """End torchrun and the ranks, which are in sessions of their own."""
        for pid in self.host.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(timeout=5)
        self.process.stdout.close()


def run_on_hosts(
    hosts: Sequence[RunningHost],
    program: Sequence[str],
    *,
    ranks_per_host: int,
    timeout_s: float = 120,
    echo: bool = False,
) -> list[str]:
    """Run a program under torchrun on all hosts; ranks are numbered host by host.

    Args:
        hosts: What ``simulated_hosts`` gave.
        program: torchrun's last arguments: a script or ["-m", module], then its arguments.
        ranks_per_host: Ranks on each host, >= 1.
        timeout_s: After this long everything is ended, in seconds, > 0.
        echo: Also print each line as it comes, with its host's number.

    Returns:
        What each host printed, stdout and stderr together.

    Raises:
        HostFailed: If a torchrun fails or time is up. The others have been ended by then.
        ValueError: If a setting is out of its range.
    """
    if ranks_per_host < 1:
        raise ValueError(f"ranks_per_host must be positive, got {ranks_per_host}")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s}")
    runs: list[_Run] = []
    try:
        for number, host in enumerate(hosts):
            command = _torchrun(hosts, number, ranks_per_host) + list(program)
            runs.append(_Run(number, host, command, echo=echo))
        _wait(runs, time.monotonic() + timeout_s, timeout_s)
    finally:
        for run in runs:
            run.close()
    return [run.output for run in runs]


def _torchrun(hosts: Sequence[RunningHost], number: int, ranks_per_host: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={len(hosts)}",
        f"--node-rank={number}",
        f"--nproc-per-node={ranks_per_host}",
        f"--master-addr={hosts[0].address}",
        f"--master-port={_PORT}",
    ]


def _environment(interface: str) -> dict[str, str]:
    """This process's environment, which wins, except that the ranks must use the link."""
    # Without its name gloo looks up that of this machine, and takes the loopback.
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
    # Lines come when they are printed; c10d does not complain that an address has no name.
    quiet = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return quiet | dict(os.environ) | dict.fromkeys(names, interface)


def _wait(runs: list[_Run], deadline: float, timeout_s: float) -> None:
    """Until all have ended well, or one has not."""
    while any(run.process.poll() is None for run in runs):
        _raise_if_one_failed(runs)
        if time.monotonic() > deadline:
            late = next(run for run in runs if run.process.poll() is None)
            message = f"host {late.number} did not end within {timeout_s:g} s"
            raise HostFailed(message, host=late.number, output=late.output)
        time.sleep(0.02)
    _raise_if_one_failed(runs)


def _raise_if_one_failed(runs: list[_Run]) -> None:
    for run in runs:
        if run.process.poll():
            run.reader.join(timeout=1)  # its last words
            status = run.process.returncode
            message = f"torchrun on host {run.number} ended with status {status}"
            raise HostFailed(message, host=run.number, output=run.output)
