"""Scripts that see some of the installed packages, as on a machine that has no others."""

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["run_with_only"]

ROOT = Path(__file__).parents[2]
# Begins a script that sees the standard library, companion, and no package called hidden.
HIDE = """
import sys

class Shown:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in HIDDEN
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Shown, sys.meta_path)
"""


def run_with_only(
    distributions: Iterable[str], code: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a script, at the root of the checkout, that sees these and all that they require."""
    hidden = hidden_but(distributions)
    assert {"seaborn", "sklearn", "transformers"} < hidden
    assert {"torch", "numpy"}.isdisjoint(hidden)
    return subprocess.run(
        [sys.executable, "-c", f"HIDDEN = {hidden!r}\n{HIDE}\n{code}", *arguments],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )


def brought_in_by(names: Iterable[str]) -> set[str]:
    """These distributions and all that they require on this machine."""
    waiting, seen = [canonicalize_name(name) for name in names], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            required = [Requirement(line) for line in distribution(name).requires or []]
        except PackageNotFoundError:  # required on another system only
            continue
        waiting += [
            canonicalize_name(requirement.name)
            for requirement in required
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return seen


def hidden_but(names: Iterable[str]) -> set[str]:
    """Installed packages, by import name, that these distributions can do without."""
    shown = brought_in_by(names) | {"companion"}
    return {
        package
        for package, owners in packages_distributions().items()
        if shown.isdisjoint(map(canonicalize_name, owners))
    }
