"""Tasks for worker processes: functions that a fresh interpreter can import."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path


class Odd(Exception):
    """Its constructor wants two arguments, its pickle offers one."""

    def __init__(self, first, second) -> None:
        super().__init__(f"{first} and {second}")


class Fragile:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ValueError("made to fail")


def square(x):
    return x * x


def slow_square(pair):
    seconds, x = pair
    time.sleep(seconds)
    return x * x


def divide(x):
    return 6 // x


def pid(_=None):
    return os.getpid()


def touch(folder, name, seconds=0.0):
    time.sleep(seconds)
    Path(folder, str(name)).touch()


def touch_or_fail(request):
    folder, name = request
    if name == 0:
        raise KeyError("the first of all")
    touch(folder, name, 0.02)


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.005)


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def write_pid_and_sleep(path, seconds):
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)


def write_pid_and_spin(path):
    Path(path).write_text(str(os.getpid()))
    while True:
        pass


def die(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "_exit":
        os._exit(3)
    elif how == "exit":
        sys.exit(4)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "fork":  # the grandchild keeps the pipes of its dead parent open
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        os._exit(5)


def modules():
    return sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "companion"))


def a_lock():
    return threading.Lock()


def fragile():
    return Fragile()


def odd():
    raise Odd(1, 2)


def echo(value):
    return value
