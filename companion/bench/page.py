"""The published page of measured results, written from committed records and nothing else.

python -m companion.bench.page course/measured.md course/measured/*.json
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from companion.bench.records import Record, read_records
from companion.bench.table import HEADINGS, cells

__all__ = ["main", "measured_page"]

# The front matter gives the wide table the room of the page's own contents list.
_INTRODUCTION = """\
---
html_theme.sidebar_secondary.remove: true
---

# Measured results

How fast `companion` is beside the libraries of the field, on the machines named below.
Each comparison first asserts that both sides return the same result. Then the two take turns.
A time is the median of the rounds, with the fastest and the slowest round in brackets where they
were kept; the ratio is the peer's time ÷ ours, so above 1 ours is faster.
A bar is what we promise: a least ratio, a greatest one where no gain is possible,
or a longest time.
Where a line says overhead, both sides extend the same work, whose time was measured in the same
turns and is subtracted from both.

`python -m companion.bench` measures on your machine. This page is written by
`python -m companion.bench.page` from the records in `course/measured/`.
"""


def measured_page(records: Sequence[Record]) -> str:
    """The page as MyST Markdown: one section per chapter, device and run.

    Raises:
        ValueError: If there are no records.
    """
    if not records:
        raise ValueError("expected at least one record for the page, got none")
    parts = [_INTRODUCTION]
    for (slug, device, machine, date), group in groupby(records, key=_run):
        rows = list(group)
        versions = ", ".join(f"{name} {number}" for name, number in rows[0].versions.items())
        where = machine.split(",")[0] if device == "cuda" else device.upper()
        how = f"; {rows[0].threads} threads, {rows[0].rounds} rounds" if rows[0].rounds else ""
        parts.append(
            f"## {slug} on {where}\n\n"
            f"{date}, {machine}{how}.\n\n"
            f"{_markdown_table(rows)}\n\n"
            f"Versions: {versions}.\n"
        )
    if all(record.device != "cuda" for record in records):
        parts.append("No GPU has been measured yet.\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m companion.bench.page")
    parser.add_argument("page", type=Path, help="Markdown file to write")
    parser.add_argument("records", type=Path, nargs="+", help="files of --json")
    options = parser.parse_args(arguments)
    page = measured_page(read_records(sorted(options.records)))
    options.page.write_text(page, encoding="utf-8")
    return 0


def _run(record: Record) -> tuple[str, str, str, str]:
    return record.slug, record.device, record.machine, record.date


def _markdown_table(records: Sequence[Record]) -> str:
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, records)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
