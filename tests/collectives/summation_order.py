"""In which order each algorithm is documented to combine, replayed in one process.

Every function takes the P inputs, 1-D, and a commutative way to combine two, and returns what every
rank has to hold, to the bit.
"""

import torch


def ring(inputs, combine):
    """Chunk c: x_c + (x_{c−1} + (… + x_{c+1}))."""
    size = len(inputs)
    chunks = [torch.tensor_split(x, size) for x in inputs]
    result = []
    for c in range(size):
        total = chunks[(c + 1) % size][c]
        for hop in range(2, size + 1):
            total = combine(chunks[(c + hop) % size][c], total)
        result.append(total)
    return torch.cat(result)


def parameter_server(inputs, combine):
    """x_0 + x_1, + x_2 …"""
    total = inputs[0]
    for x in inputs[1:]:
        total = combine(total, x)
    return total


def tree(inputs, combine):
    """Rank r adds the subtrees of r+1, r+2, r+4 …, as deep as its lowest set bit allows."""

    def subtree(rank, below):
        total, distance = inputs[rank], 1
        while distance < below and rank + distance < len(inputs):
            total = combine(total, subtree(rank + distance, distance))
            distance *= 2
        return total

    return subtree(0, 2 ** len(inputs))


def halving_doubling(inputs, combine):
    """Surplus ranks folded in, then pairs, pairs of pairs …"""
    core = 1
    while 2 * core <= len(inputs):
        core *= 2
    sums = list(inputs[:core])
    for r in range(core, len(inputs)):
        sums[r - core] = combine(sums[r - core], inputs[r])
    while len(sums) > 1:
        sums = [combine(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


def hierarchical(inputs, combine, *, ranks_per_host):
    """A ring in each host, then chunk by chunk a ring over the hosts."""
    hosts = [inputs[i : i + ranks_per_host] for i in range(0, len(inputs), ranks_per_host)]
    sums = [torch.tensor_split(ring(host, combine), ranks_per_host) for host in hosts]
    return torch.cat([ring([s[c] for s in sums], combine) for c in range(ranks_per_host)])
