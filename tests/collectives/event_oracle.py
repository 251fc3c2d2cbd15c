"""A second simulator, to check the first: ranks as coroutines and a heap of events.

It shares nothing with `companion.collectives.cost.simulation`: each rank has a program of its own,
a message starts when both ends have posted it, and a rank goes on when all it posted is over.
"""

import heapq
import itertools


def finish_times(programs, *, duration, adding, delays):
    """When each rank ends.

    Args:
        programs: For each rank a list of steps; a step is a list of ("send" | "recv", peer, tag,
            adds), all posted at once.
        duration: (src, dst, tag) → seconds that the message takes.
        adding: (dst, tag) → seconds to add it.
        delays: When each rank starts.
    """
    heap, order = [], itertools.count()
    posted, open_parts, place = {}, {}, [-1] * len(programs)
    finished = [None] * len(programs)

    def at(time, what, *args):
        heapq.heappush(heap, (time, next(order), what, args))

    def begin_next(now, rank):
        place[rank] += 1
        if place[rank] == len(programs[rank]):
            finished[rank] = now
            return
        parts = programs[rank][place[rank]]
        open_parts[rank] = len(parts)
        for kind, peer, tag, adds in parts:
            src, dst = (rank, peer) if kind == "send" else (peer, rank)
            if (src, dst, tag) not in posted:
                posted[src, dst, tag] = now
                continue
            end = now + duration(src, dst, tag)
            at(end, part_over, src)
            at(end + (adding(dst, tag) if adds else 0.0), part_over, dst)

    def part_over(now, rank):
        open_parts[rank] -= 1
        if open_parts[rank] == 0:
            begin_next(now, rank)

    for rank, delay in enumerate(delays):
        at(delay, begin_next, rank)
    while heap:
        now, _, what, args = heapq.heappop(heap)
        what(now, *args)
    assert None not in finished, f"ranks {finished} wait for ever"
    return finished
