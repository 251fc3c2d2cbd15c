"""Hand the turn to a partner and get it back, again and again; print the seconds for one way.

A program for ``run.py``: ``switch.py KIND N``.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable

UNTIMED = 20  # until both sides are warm


def between_threads(n: int) -> list[float]:
    """Each waits for its lock, which the other one opens."""
    ours, theirs = threading.Lock(), threading.Lock()
    ours.acquire()
    theirs.acquire()

    def partner() -> None:
        for _ in range(n):
            theirs.acquire()
            ours.release()

    thread = threading.Thread(target=partner)
    thread.start()
    seconds = times_s(n, theirs.release, ours.acquire)
    thread.join()
    return seconds


def between_processes(n: int) -> list[float]:
    """Each waits for one byte in its pipe, which the other one writes."""
    our_end, to_us = os.pipe()
    their_end, to_them = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(to_them)  # so that the end of the parent can be noticed
        for _ in range(n):
            if os.write(to_us, os.read(their_end, 1)) == 0:
                break
        os._exit(0)
    seconds = times_s(n, lambda: os.write(to_them, b"."), lambda: os.read(our_end, 1))
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit("expected the partner to end with 0")
    return seconds


def times_s(n: int, give: Callable[[], object], wait: Callable[[], object]) -> list[float]:
    """Half of each round trip."""
    seconds = []
    for _ in range(n):
        begun = time.perf_counter()
        give()
        wait()
        seconds.append((time.perf_counter() - begun) / 2)
    return seconds


if __name__ == "__main__":
    measure = {"thread": between_threads, "process": between_processes}[sys.argv[1]]
    print(json.dumps(measure(int(sys.argv[2]) + UNTIMED)[UNTIMED:]))
