"""Our speed beside the field's reference libraries: ``python -m companion.bench [slug ...]``.

A chapter adds one file here, named like its package, with ``workloads(device)``.
"""

from companion.bench.records import Record
from companion.bench.workload import Workload

__all__ = ["Record", "Workload"]
