"""Work for tests of crews; a spawned process can only import it."""

import os
import time

calls = 0


def note_and_wait(path: str, seconds: float) -> None:
    """Append one line, in one write: the process, begin and end."""
    begin = time.monotonic()
    time.sleep(seconds)
    line = f"{os.getpid()} {begin} {time.monotonic()}\n".encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)


def divide_by_zero() -> None:
    """Fails at once."""
    1 / 0  # noqa: B018


def leave() -> None:
    """Ends its process."""
    os._exit(3)


def leave_the_second_time() -> None:
    """Ends its process once it is warm."""
    global calls
    calls += 1
    if calls == 2:
        os._exit(5)
