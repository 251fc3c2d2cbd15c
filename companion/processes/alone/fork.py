"""Fork while another thread holds a lock, and ask the child for the lock; print what happened.

A program for ``run.py``: ``fork.py SECONDS HELD``, HELD being 0 or 1.
"""

import json
import os
import select
import signal
import sys
import threading
import warnings


def count_threads() -> int:
    """As the system counts them, or as Python does where the system has no such list."""
    tasks = "/proc/self/task"
    return len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count()


def ask_in_child(lock: threading.Lock, report: int) -> None:
    """What the child does: say how many threads it has, and say so when it got the lock."""
    os.write(report, bytes([count_threads()]))
    lock.acquire()
    os.write(report, b".")
    os._exit(0)


def fork_while(held: bool, seconds: float) -> dict[str, object]:
    """Fork between the moment when a thread takes the lock and the moment when it lets go."""
    lock, ready, may_release = threading.Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        if held:
            lock.acquire()
        ready.set()
        may_release.wait()
        if held:
            lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    ready.wait()
    in_parent = count_threads()
    from_child, report = os.pipe()
    child = os.fork()
    if child == 0:
        ask_in_child(lock, report)
    try:
        in_child = os.read(from_child, 1)[0]
        may_release.set()
        holder.join()
        parent_acquired = lock.acquire(timeout=seconds)
        child_acquired = bool(select.select([from_child], [], [], seconds)[0])
    finally:
        os.kill(child, signal.SIGKILL)  # nothing else would end it
        os.waitpid(child, 0)
    return {
        "threads_in_parent": in_parent,
        "threads_in_child": in_child,
        "parent_acquired": parent_acquired,
        "child_acquired": child_acquired,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what we show
    print(json.dumps(fork_while(sys.argv[2] == "1", float(sys.argv[1]))))
