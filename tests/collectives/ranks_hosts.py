"""What the ranks do in test_hosts.py; torchrun starts this file on every simulated host.

Each rank prints one line of JSON: who it is and, for each transfer, seconds and the bytes that
went through its host's link.
"""

import json
import os
import socket
import sys
import time

import torch
from torch import distributed

from companion.collectives.hierarchical import hierarchical_all_reduce
from companion.collectives.ring import ring_all_reduce


def to_the_neighbour(payload):
    """Rank 0 to rank 1: both on host 0."""
    _from_to(0, 1, payload)


def to_the_other_host(payload):
    """Rank 0 to rank 2, the first one of host 1."""
    _from_to(0, 2, payload)


def both_ways(payload):
    """Ranks 0 and 2 send to each other at once."""
    rank = distributed.get_rank()
    if rank in (0, 2):
        # A receive tells the peer that it may send. Said after our own payload has begun to leave
        # by the same connection, it arrives behind it: one direction would wait for the other.
        arriving = distributed.irecv(torch.empty_like(payload), 2 - rank)
        leaving = distributed.isend(payload, 2 - rank)
        arriving.wait()
        leaving.wait()


def gloo(payload):
    distributed.all_reduce(payload)


def ring(payload):
    ring_all_reduce(payload)


def hierarchical(payload):
    hierarchical_all_reduce(payload, ranks_per_host=2)


TRANSFERS = (to_the_neighbour, to_the_other_host, both_ways, gloo, ring, hierarchical)


def main(size_bytes):
    distributed.init_process_group("gloo")
    report = {"rank": distributed.get_rank(), "address": _address(), "transfers": {}}
    for transfer in TRANSFERS:
        seconds = []
        for _ in range(4):  # some may find the machine busy
            payload = torch.full((size_bytes // 4,), distributed.get_rank() + 1.0)
            _quiet()
            before, start = _sent_bytes(), time.perf_counter()
            transfer(payload)
            distributed.barrier()
            seconds.append(time.perf_counter() - start)
        report["transfers"][transfer.__name__] = {
            "seconds": min(seconds),
            "sent_bytes": _sent_bytes() - before,
            "values": payload.unique().tolist(),
        }
    print(f"\n{json.dumps(report)}", flush=True)
    distributed.destroy_process_group()


def _from_to(source, target, payload):
    if distributed.get_rank() == source:
        distributed.send(payload, target)
    elif distributed.get_rank() == target:
        distributed.recv(payload, source)


def _quiet():
    """All ranks are here, and the bucket is full again."""
    distributed.barrier()
    time.sleep(0.1)
    distributed.barrier()


def _address():
    """What this host is called by the others: the address from which it would call rank 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ["MASTER_ADDR"], 9))
        return probe.getsockname()[0]


def _sent_bytes():
    with open("/sys/class/net/link0/statistics/tx_bytes") as file:
        return int(file.read())


if __name__ == "__main__":
    main(int(sys.argv[1]))
