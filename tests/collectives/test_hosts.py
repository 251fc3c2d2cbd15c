"""Simulated hosts: what goes through a link, how fast, and that nothing of them is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from companion.collectives.hosts import main
from companion.collectives.namespaces.network import Host, simulated_hosts, why_not
from companion.collectives.namespaces.runs import HostFailed, run_on_hosts

needs_hosts = pytest.mark.skipif(bool(why_not()), reason=f"no simulated hosts: {why_not()}")
RANKS = str(Path(__file__).with_name("ranks_hosts.py"))
RATE_MBIT = 160.0
SIZE_BYTES = 3 * 2**20
BURST_BYTES = 128 * 1024  # passes at once, whatever the rate


def names(pid=None):
    """Namespaces that belong to a process; by default to this one."""
    return {
        path.name for path in Path("/run/netns").glob(f"companion-hosts-{pid or os.getpid()}-*")
    }


def runs_elsewhere(command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def reports():
    """What two ranks on each of two hosts saw, in rank order."""
    with simulated_hosts(2, rate_mbit=RATE_MBIT) as hosts:
        outputs = run_on_hosts(hosts, [RANKS, str(SIZE_BYTES)], ranks_per_host=2, timeout_s=250)
    lines = [line for output in outputs for line in output.splitlines() if line.startswith("{")]
    return sorted((json.loads(line) for line in lines), key=lambda report: report["rank"])


@needs_hosts
def test_ranks_are_numbered_host_by_host(reports):
    assert [(r["rank"], r["address"]) for r in reports] == [
        (0, "10.77.0.1"),
        (1, "10.77.0.1"),
        (2, "10.77.0.2"),
        (3, "10.77.0.2"),
    ]


def measured(reports, transfer, what):
    return [report["transfers"][transfer][what] for report in reports]


# Two hosts of two ranks, S bytes. A ring of P = 4 crosses each link with 2(P−1)/P·S = 1.5 S; two
# rings of H = 2, one for each local rank, with 2(H−1)/H·S/2 each: together S.
@needs_hosts
@pytest.mark.parametrize(
    ("transfer", "from_host_0", "from_host_1"),
    [
        ("to_the_neighbour", 0, 0),
        ("to_the_other_host", 1, 0),
        ("both_ways", 1, 1),
        ("gloo", 1.5, 1.5),
        ("ring", 1.5, 1.5),
        ("hierarchical", 1, 1),
    ],
)
def test_links_carry_what_leaves_a_host_and_nothing_else(
    reports, transfer, from_host_0, from_host_1
):
    sent = [bytes_ / SIZE_BYTES for bytes_ in measured(reports, transfer, "sent_bytes")]
    # A rank that waits may look at the counter a little late. Headers and acknowledgements come
    # on top; they are under 3%.
    assert from_host_0 <= max(sent[:2]) < 1.03 * from_host_0 + 0.03
    assert from_host_1 <= max(sent[2:]) < 1.03 * from_host_1 + 0.03


@needs_hosts
@pytest.mark.parametrize("transfer", ["gloo", "ring", "hierarchical"])
def test_the_sum_over_hosts_is_right_on_every_rank(reports, transfer):
    assert measured(reports, transfer, "values") == [[1.0 + 2.0 + 3.0 + 4.0]] * 4


@needs_hosts
@pytest.mark.parametrize(
    ("transfer", "share"),
    [("to_the_other_host", 1), ("both_ways", 1), ("ring", 1.5), ("hierarchical", 1)],
)
def test_no_transfer_is_faster_than_its_link(reports, transfer, share):
    least_s = (share * SIZE_BYTES - BURST_BYTES) * 8 / (RATE_MBIT * 1e6)
    took_s = max(measured(reports, transfer, "seconds"))
    # Were the link half duplex, both_ways would take twice as long.
    assert least_s < took_s < 1.9 * least_s


@needs_hosts
def test_inside_a_host_the_rate_does_not_matter(reports):
    over_the_link_s = SIZE_BYTES * 8 / (RATE_MBIT * 1e6)
    assert measured(reports, "to_the_neighbour", "seconds")[1] < over_the_link_s / 2


RECEIVE = """
import socket
connection, _ = socket.create_server(("", 5000)).accept()
while connection.recv(2**16):
    pass
connection.sendall(b"!")
"""
SEND = """
import socket, sys, time
while True:
    try:
        connection = socket.create_connection((sys.argv[1], 5000))
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
start = time.monotonic()
connection.sendall(bytes(int(sys.argv[2])))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print(start, time.monotonic())
"""


@needs_hosts
@pytest.mark.parametrize(
    ("sources", "targets"),
    [((1, 2), (0, 0)), ((0, 0), (1, 2))],
    ids=["two to one", "one to two"],
)
def test_two_transfers_share_a_link(sources, targets):
    with simulated_hosts(3, rate_mbit=80) as hosts:
        python, senders, receivers = [sys.executable, "-c"], [], []
        for port, (source, target) in enumerate(zip(sources, targets, strict=True), start=5000):
            receive, send = (code.replace("5000", str(port)) for code in (RECEIVE, SEND))
            receivers.append(subprocess.Popen(hosts[target].command(*python, receive)))
            to = [hosts[target].address, str(2**20)]
            command = hosts[source].command(*python, send, *to)
            senders.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        said = [sender.communicate(timeout=200)[0].split() for sender in senders]
        assert [receiver.wait(timeout=30) for receiver in receivers] == [0, 0]
    # From the first start to the last end, on the clock that all processes share.
    took_s = max(float(end) for _, end in said) - min(float(start) for start, _ in said)
    assert took_s > (2 * 2**20 - BURST_BYTES) * 8 / 80e6


@needs_hosts
def test_nothing_is_left_after_the_block_nor_after_an_error():
    with simulated_hosts(2, rate_mbit=8) as hosts:
        assert {host.namespace for host in hosts} < names()
        sleeper = subprocess.Popen(hosts[1].command("sleep", "600"))
        while not hosts[1].pids():
            time.sleep(0.01)
        assert hosts[1].pids() == [sleeper.pid]
        assert hosts[0].pids() == []
    assert sleeper.wait(timeout=100) == -signal.SIGKILL
    assert names() == set()
    with pytest.raises(KeyboardInterrupt), simulated_hosts(1, rate_mbit=8):
        raise KeyboardInterrupt
    assert names() == set()


@needs_hosts
def test_what_a_killed_process_left_is_removed_by_the_next():
    code = (
        "import subprocess, time\n"
        "from companion.collectives.namespaces.network import simulated_hosts\n"
        "with simulated_hosts(1, rate_mbit=8) as [host]:\n"
        "    sleeper = subprocess.Popen(host.command('sleep', '600'), stdout=-3)\n"
        "    while not host.pids():\n"
        "        time.sleep(0.01)\n"
        "    print(host.namespace, sleeper.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        namespace, sleeper = owner.stdout.readline().split()
        owner.kill()
        # Dead, but not yet collected: its number still stands in /proc.
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
        assert namespace in names(owner.pid)
        assert Path(f"/proc/{sleeper}/exe").exists()
        with simulated_hosts(1, rate_mbit=8) as [host]:
            assert names(owner.pid) == set()
            assert host.namespace in names()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{sleeper}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # its new parent still has to collect it
    assert not Path(f"/proc/{sleeper}/exe").exists()


@needs_hosts
def test_hosts_of_a_living_process_are_left_alone():
    with simulated_hosts(1, rate_mbit=8) as [host]:
        code = (
            "from companion.collectives.namespaces.network import simulated_hosts\n"
            "with simulated_hosts(1, rate_mbit=8) as [host]:\n"
            "    print(host.namespace)\n"
        )
        other = runs_elsewhere([sys.executable, "-c", code]).strip()
        assert other != host.namespace
        assert not Path(f"/run/netns/{other}").exists()
        assert host.namespace in names()
        assert "10.77.0.1/24" in runs_elsewhere(host.command("ip", "-br", "address"))


@needs_hosts
def test_a_second_set_in_one_process_is_refused():
    with (
        simulated_hosts(1, rate_mbit=8) as [host],
        pytest.raises(RuntimeError, match="leave their block first"),
        simulated_hosts(1, rate_mbit=8),
    ):
        pass
    assert host.namespace not in names()


@needs_hosts
def test_a_failing_rank_is_reported_with_its_last_words(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('no data on this host')")
    with simulated_hosts(1, rate_mbit=8) as hosts:
        with pytest.raises(HostFailed, match="on host 0 ended with status 1") as caught:
            run_on_hosts(hosts, [str(script)], ranks_per_host=1, timeout_s=60)
        assert hosts[0].pids() == []
    assert caught.value.host == 0
    assert "no data on this host" in caught.value.output


@needs_hosts
def test_what_does_not_end_is_ended():
    with simulated_hosts(2, rate_mbit=8) as hosts:
        with pytest.raises(HostFailed, match=r"host 0 did not end within 0\.7 s"):
            run_on_hosts(hosts, [RANKS, "4"], ranks_per_host=1, timeout_s=0.7)
        assert [host.pids() for host in hosts] == [[], []]


@pytest.mark.parametrize(("n", "rate_mbit"), [(0, 8), (251, 8), (1, 0), (1, float("nan"))])
def test_settings_out_of_range_are_refused(n, rate_mbit):
    said = "hosts must be in" if rate_mbit == 8 else "rate_mbit must be positive"
    with pytest.raises(ValueError, match=said), simulated_hosts(n, rate_mbit=rate_mbit):
        pass


def test_runs_out_of_range_are_refused():
    with pytest.raises(ValueError, match="ranks_per_host must be positive, got 0"):
        run_on_hosts([], ["x"], ranks_per_host=0)
    with pytest.raises(ValueError, match="timeout_s must be positive, got 0"):
        run_on_hosts([], ["x"], ranks_per_host=1, timeout_s=0)


def test_why_not_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "this is darwin" in why_not.__wrapped__()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_not.__wrapped__() == "iproute2 is not installed: no ip and no tc"


def test_without_the_capabilities_it_says_so(monkeypatch, tmp_path):
    for tool in ("ip", "tc"):
        (tmp_path / tool).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("companion.collectives.namespaces.network._effective", lambda: 1 << 12)
    assert why_not.__wrapped__() == "it needs root, or CAP_SYS_ADMIN"


def test_a_command_for_a_host_runs_in_its_namespace():
    command = Host("blue", "10.0.0.1").command("ls", "-l")
    assert command == ["ip", "netns", "exec", "blue", "ls", "-l"]


@needs_hosts
def test_kill_ends_the_command_line_and_its_hosts():
    command = [sys.executable, "-m", "companion.collectives.hosts", "--", "-c", "pass"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(names(running.pid)) < 3:
        assert running.poll() is None
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait(timeout=100) == 128 + signal.SIGTERM
    assert names(running.pid) == set()


@needs_hosts
def test_the_command_line_says_in_a_line_what_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # it would stay for the other tests
    with pytest.raises(SystemExit, match="2"):
        main(["--rate-mbit", "0", "--", "-c", "pass"])
    assert "error: rate_mbit must be positive, got 0.0" in capsys.readouterr().err
    assert main(["--hosts", "1", "--timeout-s", "0.1", "--", "-c", "pass"]) == 1
    assert capsys.readouterr().err == "host 0 did not end within 0.1 s\n"
