"""Several hosts on one machine: network namespaces, joined by a switch over links of a given rate.

    host 0: ranks 0 … R−1 ── link0 ──┐
                                    switch      each link full duplex, rate_mbit each way
    host 1: ranks R … 2R−1 ─ link0 ──┘

A namespace is a network of its own: own interfaces, addresses and ports. Between ranks of one
host bytes go through its loopback, as fast as memory allows; to another host they go through its
link, which a token bucket holds to its rate. So the shape of a cluster can be measured without
one. What it lacks: latency (microseconds here), and cores (all hosts share this machine's).

Needs Linux, root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and iproute2's ``ip`` and ``tc``.

Source: the manual pages network_namespaces(7), veth(4), tc-tbf(8).
Chapter: course/11_collectives.ipynb.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Host", "LinkBytes", "simulated_hosts", "why_not"]

_PREFIX = "companion-hosts"
_INTERFACE = "link0"
_BURST = "128kb"  # two segments as TCP hands them down: smaller ones would have to be cut
_MTU = "9000"  # as in a cluster: headers are then 1% of what goes through a link, and not 5%
_MOST_HOSTS = 250  # addresses 10.77.0.1 … in one /24
# What the kernel asks for, by their numbers in capabilities(7).
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


@dataclass(frozen=True)
class LinkBytes:
    """Bytes that went through a host's link since it was made, headers included."""

    sent: int
    received: int


@dataclass(frozen=True)
class Host:
    """One simulated host.

    Attributes:
        namespace: Name of its network namespace.
        address: Its IPv4 address.
        interface: Name of its link: what GLOO_SOCKET_IFNAME has to say.
    """

    namespace: str
    address: str
    interface: str = _INTERFACE

    def command(self, *command: str) -> list[str]:
        """The given command, to be run on this host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def pids(self) -> list[int]:
        """Processes that run on this host."""
        return [int(pid) for pid in _run("ip", "netns", "pids", self.namespace).split()]

    def link_bytes(self) -> LinkBytes:
        """How much has gone through the link so far."""
        shown = _run("ip", "-n", self.namespace, "-s", "-j", "link", "show", self.interface)
        statistics = json.loads(shown)[0]["stats64"]
        return LinkBytes(statistics["tx"]["bytes"], statistics["rx"]["bytes"])


@functools.cache
def why_not() -> str:
    """Why this machine cannot simulate hosts, in words; empty if it can."""
    if not sys.platform.startswith("linux"):
        return f"network namespaces are Linux's, and this is {sys.platform}"
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"iproute2 is not installed: no {' and no '.join(missing)}"
    if lacking := [name for name, bit in _CAPABILITIES.items() if not _effective() >> bit & 1]:
        return f"it needs root, or {' and '.join(lacking)}"
    try:
        with simulated_hosts(1, rate_mbit=1):
            return ""
    except RuntimeError as error:  # a container's rules, a kernel without veth or tbf
        return str(error)


@contextlib.contextmanager
def simulated_hosts(n: int, *, rate_mbit: float) -> Iterator[list[Host]]:
    """Make hosts for the length of a with-block.

    At its end everything that runs on them is killed and the hosts are removed, also after an
    exception or Ctrl-C. What a killed process left behind is removed when the next one enters.

    Args:
        n: Number of hosts, in [1, 250].
        rate_mbit: Rate of each host's link in each direction, in 10^6 bit/s, > 0.

    Returns:
        A context manager that gives the hosts.

    Raises:
        ValueError: If a setting is out of its range.
        RuntimeError: If the machine refuses; ``why_not`` says so in advance.
    """
    if not 1 <= n <= _MOST_HOSTS:
        raise ValueError(f"hosts must be in [1, {_MOST_HOSTS}], got {n}")
    if not rate_mbit > 0:
        raise ValueError(f"rate_mbit must be positive, got {rate_mbit}")
    _remove_orphans()
    ours = _names_of(os.getpid())
    if any(name.startswith(f"{ours}-") for name in _namespaces()):
        raise RuntimeError("this process has simulated hosts already: leave their block first")
    try:
        switch = _make_switch(f"{ours}-switch")
        yield [_make_host(f"{ours}-{i}", i, switch, rate_mbit) for i in range(n)]
    finally:
        for name in _namespaces():
            if name.startswith(f"{ours}-"):
                _remove(name)


def _make_switch(name: str) -> str:
    """A bridge in a namespace of its own, so that this machine's own network stays as it is."""
    _run("ip", "netns", "add", name)
    _run("ip", "-n", name, "link", "add", "bridge", "mtu", _MTU, "type", "bridge")
    _run("ip", "-n", name, "link", "set", "bridge", "up")
    return name


def _make_host(name: str, index: int, switch: str, rate_mbit: float) -> Host:
    """A namespace with a cable to the switch, shaped at both of its ends."""
    host, port = Host(name, f"10.77.0.{index + 1}"), f"port{index}"
    _run("ip", "netns", "add", name)
    peer = ["peer", "name", _INTERFACE, "mtu", _MTU, "netns", name]
    _run("ip", "-n", switch, "link", "add", port, "mtu", _MTU, "type", "veth", *peer)
    _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
    for namespace, interface in ((name, _INTERFACE), (switch, port)):
        _shape(namespace, interface, rate_mbit)
    _run("ip", "-n", name, "address", "add", f"{host.address}/24", "dev", _INTERFACE)
    # Of an interface with two addresses gloo takes the first, and IPv6 needs a second to be ready.
    _run("ip", "-n", name, "link", "set", _INTERFACE, "addrgenmode", "none", "up")
    _run("ip", "-n", name, "link", "set", "lo", "up")
    return host


def _shape(namespace: str, interface: str, rate_mbit: float) -> None:
    """Hold what leaves through an interface to the rate; a queue of 100 ms stands before it."""
    bucket = ["tbf", "rate", f"{round(rate_mbit * 1e6)}bit", "burst", _BURST, "latency", "100ms"]
    _run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", *bucket)


def _names_of(pid: int) -> str:
    """The prefix of a process's namespaces: its id, and its start, since ids come again."""
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state in "ZX":  # ended, and not yet collected by its parent
        raise ProcessLookupError(f"process {pid} has ended")
    return f"{_PREFIX}-{pid}-{fields[18]}"


def _namespaces() -> list[str]:
    """All namespaces with a name, as ``ip netns`` keeps them."""
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _remove_orphans() -> None:
    """Remove the hosts of processes that ended without doing so."""
    for name in _namespaces():
        if not name.startswith(f"{_PREFIX}-"):
            continue
        pid = name.removeprefix(f"{_PREFIX}-").split("-")[0]
        try:
            alive = name.startswith(f"{_names_of(int(pid))}-")
        except OSError:
            alive = False
        if not alive:
            _remove(name)


def _remove(name: str) -> None:
    """End what runs in a namespace and remove it; its links go with it."""
    deadline = time.monotonic() + 10
    try:
        while (pids := Host(name, "").pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        _run("ip", "netns", "delete", name)
    except RuntimeError:
        if name in _namespaces():  # or else another process has just removed the same orphan
            raise


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip() or f"exit status {done.returncode}"
        raise RuntimeError(f"{' '.join(command)}: {reason}")
    return done.stdout


def _effective() -> int:
    """This process's capabilities as bits."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
