"""What every pytest run of this project shares: cleaned chapters, GPU tests, Triton on the CPU."""

import importlib.util
import os
import re
import signal
from pathlib import Path

import pytest

# Without a GPU, Triton's kernels run in its interpreter; Triton asks once, when it is imported.
# The driver's device files answer without torch (NVIDIA's, and that of Linux inside Windows).
if not any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "dxg")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell lets what it starts in the background ignore Ctrl-C, and all that this starts as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests that run side by side (pytest-xdist) share the cores, and so do the processes they start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

_HAS_TIMEOUTS = importlib.util.find_spec("pytest_timeout") is not None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chapter",
        action="append",
        metavar="SLUG",
        help="only tests whose file, or one of whose parameters, belongs to this chapter",
    )
    if not _HAS_TIMEOUTS:
        parser.addini("timeout", "seconds (read by pytest-timeout, which is not installed here)")


def pytest_configure(config: pytest.Config) -> None:
    if not _HAS_TIMEOUTS:
        config.addinivalue_line("markers", "timeout(seconds): read by pytest-timeout")
    if config.option.markexpr == "gpu":
        # Not a hook of this file: pytest asks those only once a folder's own conftest is imported.
        config.pluginmanager.register(_WithWhatIsInstalled())


class _WithWhatIsInstalled:
    """Leaves out the test files that need a package which is not installed here.

    A GPU machine may have torch, triton, numpy, jaxtyping and pytest, and no more; the kernels'
    tests need no more.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector):
        report = yield
        error = report.call.excinfo.value if report.failed else None
        while error is not None and not isinstance(error, ModuleNotFoundError):
            error = error.__cause__
        package = error.name.partition(".")[0] if error is not None else "tests"
        if package not in ("companion", "tests"):
            reason = f"Skipped: needs {package}, which is not installed"
            report.outcome, report.longrepr = "skipped", (str(collector.path), 0, reason)
        return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose and order the tests, number the cells of chapters, and skip what needs a GPU.

    Files with a slow test come last, so that a red test shows early; the exercises, which take
    longest, first among them.

    Chapters are kept with null execution counts. nbval takes such a cell for one that was never
    run: it refuses the cell when it has outputs, and compares nothing when it has none. Numbered,
    every cell is compared, also a cell that must print nothing.
    """
    if slugs := config.getoption("chapter"):
        of_chapter = re.compile(rf"(?<![a-z_])(\d\d_)?({'|'.join(slugs)})(?![a-z_])")
        others = [item for item in items if not of_chapter.search(item.nodeid)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if of_chapter.search(item.nodeid)]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path in slow, item.path.name != "test_exercises.py"))
    for item in items:
        if type(item).__name__ == "IPyNbCell" and item.cell.execution_count is None:
            item.cell.execution_count = item.cell_num + 1
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if for_gpu and not _cuda_is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


def _cuda_is_available() -> bool:
    """Asked only when a GPU test was collected: importing torch costs a second."""
    import torch

    return torch.cuda.is_available()
