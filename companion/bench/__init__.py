"""Our speed beside the field's reference libraries: ``python -m companion.bench [slug ...]``.

A chapter adds one file here, named like its package, with ``workloads(device)``: a list, or a
generator where something must stand while a workload is measured, and be taken down after it.
"""

from companion.bench.records import Record
from companion.measure.workload import Workload

__all__ = ["Record", "Workload"]
