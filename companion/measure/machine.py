"""Which machine and which versions a time belongs to."""

import os
import platform
import re
import sys
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    requires,
    version,
)
from pathlib import Path

__all__ = ["machine", "versions"]


def machine(device: str) -> str:
    """Processor, cores, memory and system in one line, with the GPU's name for ``"cuda"``."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parts = [
        _processor(),
        f"{os.cpu_count()} cores",
        f"{memory_bytes / 2**30:.0f} GiB",
        f"{platform.system()} {platform.machine()}",
    ]
    if device == "cuda":
        import torch

        parts.insert(0, torch.cuda.get_device_name())
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those direct dependencies now imported."""
    found = {"python": platform.python_version()}
    try:
        lines = requires("companion") or []
        found["companion"] = version("companion")
    except PackageNotFoundError:  # run from a checkout that is not installed
        lines = ["numpy", "torch"]
    for package in sorted({re.split(r"[^\w.-]", line)[0] for line in lines}, key=str.lower):
        try:
            files = distribution(package)
        except PackageNotFoundError:  # an extra that is not installed
            continue
        if sys.modules.keys() & _modules(files):
            found[package] = files.version
    return found


def _modules(package: Distribution) -> set[str]:
    """Top-level names that a distribution installs: POT gives ``ot``."""
    listed = (package.read_text("top_level.txt") or "").split()
    folders = {file.parts[0] for file in package.files or [] if file.name == "__init__.py"}
    return {*listed, *folders}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*: (.+)$", cpuinfo.read_text(), flags=re.MULTILINE)
        if names:
            return names[0]
    return platform.processor() or platform.machine()
