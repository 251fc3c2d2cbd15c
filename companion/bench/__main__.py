"""``python -m companion.bench [slug ...] [--device cpu|cuda] [--json FILE]``.

``flash --device cuda --sweep`` times tiles of the attention kernels instead.

Exit status: 0, every bar is met; 1, one is missed or results differ; 2, something could not run.
"""

import argparse
import importlib
import statistics
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from companion.bench.records import Record, write_records
from companion.bench.table import terminal_table
from companion.measure.machine import machine, versions
from companion.measure.workload import Workload

if TYPE_CHECKING:
    from companion.measure.timing import Comparison

__all__ = ["main", "slugs"]

THREADS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    options = _parser().parse_args(arguments)
    known = slugs()
    if unknown := [slug for slug in options.slugs if slug not in known]:
        return _refuse(f"expected slugs from: {', '.join(known)}; got {', '.join(unknown)}")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        return _refuse("expected a CUDA device for --device cuda, got none")
    if options.sweep:
        return _sweep(options)
    records, missing = [], False
    for slug in options.slugs or known:
        try:
            records += _measure(slug, options.device)
        except ImportError as error:
            missing = True
            print(f"{slug}: {error}; to install what the bench needs: make lab", file=sys.stderr)
    if records:
        print(f"{records[0].machine}, {THREADS} threads")
    for slug, rows in groupby(records, key=lambda record: record.slug):
        print(f"\n{slug}\n{terminal_table(list(rows))}")
    if options.json:
        write_records(options.json, records)
    return 2 if missing else int(not all(record.passed for record in records))


def _sweep(options: argparse.Namespace) -> int:
    if options.slugs != ["flash"] or options.device != "cuda" or options.json:
        return _refuse("--sweep goes with flash --device cuda, and nothing else")
    from companion.bench.tile_sweep import sweep

    for line in sweep():
        print(line, flush=True)
    return 0


def slugs() -> list[str]:
    """Chapters with a file here: a module counts if a package beside ``bench`` has its name."""
    here = Path(__file__).parent
    return sorted(
        file.stem
        for file in here.glob("*.py")
        if (here.parent / file.stem / "__init__.py").exists()
    )


def _measure(slug: str, device: str) -> list[Record]:
    import torch

    from companion.measure.timing import compare, limited_threads

    records = []
    # On a GPU the CPU's threads only wait, and threadpoolctl need not be installed.
    with nullcontext() if device == "cuda" else limited_threads(THREADS):
        setting = {
            "slug": slug,
            "device": device,
            "threads": torch.get_num_threads(),
            "machine": machine(device),
            "versions": {},
            "date": datetime.now(UTC).date().isoformat(),
        }
        for workload in importlib.import_module(f"companion.bench.{slug}").workloads(device):
            print(f"{slug}: {workload.name}, {workload.peer} …", file=sys.stderr, flush=True)
            records.append(_record(workload, compare(workload, device=device), setting))
    # Asked last, when every peer has been imported.
    return [replace(record, versions=versions()) for record in records]


def _record(workload: Workload, result: "Comparison", setting: dict[str, Any]) -> Record:
    ours, peer, timed = result.ours_s, result.peer_s, result.equal
    return Record(
        workload=workload.name,
        peer=workload.peer,
        ours_s=statistics.median(ours) if timed else None,
        peer_s=statistics.median(peer) if timed else None,
        ours_range_s=(min(ours), max(ours)) if timed else None,
        peer_range_s=(min(peer), max(peer)) if timed else None,
        ratio=result.ratio,
        bar=workload.bar,
        ceiling=workload.ceiling,
        limit_s=workload.limit_s,
        passed=timed and workload.met_by(result.ratio, statistics.median(ours)),
        equal=result.equal,
        rounds=len(ours),
        work=workload.work,
        work_unit=workload.work_unit,
        baseline_s=statistics.median(result.baseline_s) if result.baseline_s else None,
        **setting,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m companion.bench", description="Measure our speed against other libraries."
    )
    parser.add_argument("slugs", nargs="*", metavar="slug", help="chapters (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", metavar="FILE", help="write the records there too")
    parser.add_argument("--sweep", action="store_true", help="find the fastest tiles of flash")
    return parser


def _refuse(message: str) -> int:
    print(f"companion.bench: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
