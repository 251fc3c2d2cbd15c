"""A command line for several hosts on one machine: torchrun on each, over links of a given rate.

    python -m companion.collectives.hosts --hosts 2 --ranks-per-host 2 --rate-mbit 200 \
        -- -m companion.collectives.check

What follows -- is what torchrun gets. It needs what ``namespaces`` need: Linux and root.

Chapter: course/11_collectives.ipynb.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from companion.collectives.namespaces.network import simulated_hosts, why_not
from companion.collectives.namespaces.runs import HostFailed, run_on_hosts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--ranks-per-host", type=int, default=2)
    parser.add_argument("--rate-mbit", type=float, default=200.0, help="of each link, each way")
    parser.add_argument("--timeout-s", type=float, default=600.0)
    parser.add_argument("program", nargs="+", help="what torchrun gets, after --")
    options = parser.parse_args(arguments)
    if reason := why_not():
        parser.error(f"no hosts can be simulated here: {reason}")
    # kill's signal, as Ctrl-C, must pass through the block below and not around it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _run(options)
    except ValueError as error:
        parser.error(str(error))
    except HostFailed as error:  # its output has been shown already
        print(str(error).splitlines()[0].removesuffix(":"), file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    with simulated_hosts(options.hosts, rate_mbit=options.rate_mbit) as hosts:
        run_on_hosts(
            hosts,
            options.program,
            ranks_per_host=options.ranks_per_host,
            timeout_s=options.timeout_s,
            echo=True,
        )
        for number, host in enumerate(hosts):
            moved = host.link_bytes()
            print(f"host {number}: {moved.sent:,} bytes sent, {moved.received:,} received")


if __name__ == "__main__":
    sys.exit(main())
