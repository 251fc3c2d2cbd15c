"""Starts a kernel with limits; `python -c` runs this text where the file may be out of sight.

The first argument holds the limits, as JSON: `setrlimit`'s by name. What a cell prints or shows
is cut here, where it arises: the grader then neither receives nor misses anything.
"""

import json
import resource
import sys
from collections import Counter
from contextlib import nullcontext

if sys.path[0] == "":
    del sys.path[0]  # as `python -m ipykernel_launcher` does, which this replaces

from ipykernel import kernelapp
from ipykernel.iostream import OutStream
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.session import Session

CELL_CHARACTERS = 500_000  # of one cell's output; the grader keeps still less
MESSAGE_COST = 1_000  # what a message counts besides its text: ZeroMQ keeps 1,000 in its queue
ERROR_CHARACTERS = 10_000
OUTPUT = {"stream", "display_data", "update_display_data", "execute_result", "clear_output"}


printed, sent = Counter(), Counter()  # by the cell's message
write, send = OutStream.write, Session.send


def take(spent: Counter, cell: str | None, wanted: int) -> int:
    """How much of ``wanted`` the cell may still have."""
    granted = max(0, min(wanted, CELL_CHARACTERS - spent[cell]))
    spent[cell] += granted
    return granted


def size(value: object) -> int:
    """Characters and bytes in what is sent."""
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size, value))
    return len(value) if isinstance(value, str | bytes) else 8


def short(value: object) -> object:
    """An error with its long texts cut."""
    if isinstance(value, dict):
        return {key: short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [short(part) for part in value[:200]]
    return value[:ERROR_CHARACTERS] if isinstance(value, str) else value


def bounded_write(self: OutStream, string: str) -> int | None:
    """`OutStream.write` of the part of ``string`` that the cell may still print."""
    if not isinstance(string, str):
        return write(self, string)
    write(self, string[: take(printed, self.parent_header.get("msg_id"), 2 * len(string)) // 2])
    return len(string)


def bounded_send(self: Session, stream: object, message: object, content=None, *more, **options):
    """`Session.send`, but errors are cut, and outputs beyond the cell's share are left out."""
    whole = isinstance(message, dict)
    kind = message["header"]["msg_type"] if whole else message
    body = message["content"] if whole else content
    parent = message["parent_header"] if whole else options.get("parent", *more[:1] or [None])
    if kind in ("error", "execute_reply"):
        body = short(body)
    elif kind in OUTPUT or kind.startswith("comm_"):
        cost = size(body) + size(options.get("buffers") or []) + MESSAGE_COST
        cell = (parent or {}).get("header", parent or {}).get("msg_id")
        if take(sent, cell, cost) < cost:
            return None
    if whole:
        return send(self, stream, message | {"content": body}, None, *more, **options)
    return send(self, stream, message, body, *more, **options)


def main() -> None:
    """Set the limits, for good, and start IPython's kernel."""
    for name, most in json.loads(sys.argv.pop(1)).items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(getattr(resource, name), (most, most))
    OutStream.write, Session.send = bounded_write, bounded_send
    # It would keep all that is printed.
    InteractiveShell._tee = lambda shell, channel: nullcontext()
    kernelapp.launch_new_instance()


if __name__ == "__main__":
    main()
