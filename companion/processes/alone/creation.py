"""Start a worker that does nothing, wait until it is gone, again and again; print the seconds.

A program for ``run.py``: ``creation.py KIND N``.
"""

import json
import multiprocessing
import os
import sys
import threading
import time


def lifetimes_s(kind: str, n: int) -> list[float]:
    """Seconds from before the start to after the end, of ``n`` workers one after another."""
    make = threading.Thread if kind == "thread" else multiprocessing.get_context(kind).Process
    seconds = []
    for _ in range(n + 1):
        begun = time.perf_counter()
        # A built-in function: a spawned interpreter has nothing to import for it.
        worker = make(target=os.getpid)
        worker.start()
        worker.join()
        seconds.append(time.perf_counter() - begun)
        if getattr(worker, "exitcode", 0) != 0:
            raise SystemExit(f"expected a worker to end with 0, got {worker.exitcode}")
    return seconds[1:]  # the first one also started helpers, such as the fork server


if __name__ == "__main__":
    print(json.dumps(lifetimes_s(sys.argv[1], int(sys.argv[2]))))
