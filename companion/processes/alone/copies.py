"""Fill memory, fork, let the child overwrite a part, and print what each of the two is charged.

A program for ``run.py``: ``copies.py SIZE_BYTES FRACTION...``. It prints a
list of (proportional set size of the parent, of the child) in bytes, of that memory alone.
"""

import contextlib
import ctypes
import json
import mmap
import os
import sys

PAGE = mmap.PAGESIZE


def fill(memory: mmap.mmap, pages: int, value: int) -> None:
    """Write one byte to each of the first pages."""
    for page in range(pages):
        memory[page * PAGE] = value


def charged_bytes(pid: int, address: int) -> int:
    """Proportional set size of the mapping that holds an address."""
    inside = False
    with open(f"/proc/{pid}/smaps") as lines:
        for line in lines:
            first = line.split()[0]
            if not first.endswith(":"):  # a line such as "7ffb84a00000-7ffb88a00000 rw-p ..."
                begin, end = (int(text, 16) for text in first.split("-"))
                inside = begin <= address < end
            elif inside and first == "Pss:":
                return int(line.split()[1]) * 1024
    raise SystemExit(f"expected the memory in the list of process {pid}, and it is not there")


def after_writing(memory: mmap.mmap, address: int, pages: int) -> tuple[int, int]:
    """Fork a child that overwrites some pages; what the parent and the child are charged then."""
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(to_child)  # so that the end of the parent can be noticed
        fill(memory, pages, 2)
        os.write(to_parent, b".")
        os.read(from_parent, 1)
        os._exit(0)
    os.close(to_parent)
    os.read(from_child, 1)
    charged = charged_bytes(os.getpid(), address), charged_bytes(child, address)
    for end in (to_child, from_child, from_parent):
        os.close(end)
    os.waitpid(child, 0)
    return charged


def main(size_bytes: int, fractions: list[float]) -> None:
    """One child after another, each of them with its fraction."""
    pages = -(-size_bytes // PAGE)
    memory = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # No pages of 2 MiB; and neighbours are not counted in, whose pages may be large.
    with contextlib.suppress(OSError):  # a kernel that has none
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    fill(memory, pages, 1)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    rows = [after_writing(memory, address, round(part * pages)) for part in fractions]
    print(json.dumps(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]), [float(text) for text in sys.argv[2:]])
