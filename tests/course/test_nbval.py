"""Strict nbval, as `make test-nb` runs it, on a small cleaned notebook: what passes, what fails."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import execute
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]
SANITISE = ROOT / "tests" / "course" / "nbval_sanitise.cfg"
CELLS = {
    "prints more": ("x = 2", "x = 2\nprint('unforeseen')"),
    "prints another number": ("print(x)\nprint(x * x)", "print(x)\nprint(x * x + 1)"),
    "prints nothing": ("print('here')", "pass"),
    "shows no figure": ("import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()", "print(1)"),
    "shows another widget": ("import ipywidgets as w\nw.IntSlider()", "w.FloatSlider()"),
    "prints the time": ("import time\nprint(time.time())", "import time\nprint(time.time())"),
    "stops": ("print(5)", "raise ValueError('no')"),
}
MEASURED = [*CELLS].index("prints the time")


@pytest.fixture(scope="module")
def chapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small chapter, executed and cleaned, beside the project's pytest settings."""
    folder = tmp_path_factory.mktemp("nbval")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    notebook = new_notebook(cells=[new_code_cell(source) for source, _ in CELLS.values()])
    notebook.cells[MEASURED].metadata.tags = ["nbval-ignore-output"]
    path = folder / "01_small.ipynb"
    execute.execute(notebook, folder=folder)
    execute.clean(notebook)
    execute.write(notebook, path)
    return path


def failed_cells(path: Path) -> list[int]:
    """Numbers of the cells that strict nbval refuses; all cells are validated in any case."""
    command = [sys.executable, "-m", "pytest", "--nbval", "--color=no", path.name]
    command += ["--nbval-sanitize-with", str(SANITISE), "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=200)
    failed = re.findall(r"^FAILED \S+::Cell (\d+)", done.stdout, re.MULTILINE)
    assert f"{len(CELLS) - len(failed)} passed" in done.stdout or len(failed) == len(CELLS)
    return [int(number) for number in failed]


def test_cleaned_chapter_passes_strictly(chapter: Path) -> None:
    assert failed_cells(chapter) == []


def test_every_defect_is_found(chapter: Path) -> None:
    notebook = nbformat.read(chapter, as_version=4)
    for cell, (_, defect) in zip(notebook.cells, CELLS.values(), strict=True):
        cell.update(source=defect, metadata={})
    path = chapter.with_name("02_broken.ipynb")
    nbformat.write(notebook, path)
    assert [[*CELLS][number] for number in failed_cells(path)] == [*CELLS]


def test_every_pattern_of_the_sanitise_file_is_needed() -> None:
    patterns = re.findall(r"^regex: (.+)$", SANITISE.read_text("utf-8"), re.MULTILINE)
    chapters = (ROOT / "course").glob("[0-9][0-9]_*.ipynb")
    stored = "\n".join(path.read_text("utf-8") for path in chapters)
    assert [pattern for pattern in patterns if not re.search(pattern, stored)] == []
