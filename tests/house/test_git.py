"""Readable diffs of notebooks, in a clone that set-up has configured."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import bootstrap

ROOT = Path(bootstrap.__file__).parent


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A configured clone in which one line of a notebook was changed."""
    git(tmp_path, "init", "--quiet")
    bootstrap.configure_git(tmp_path)
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    notebook = new_notebook(cells=[new_code_cell("print(1)")])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    git(tmp_path, "add", "a.ipynb", ".gitattributes")
    git(tmp_path, "commit", "--quiet", "--message", "a")
    notebook.cells[0].update(source="print(2)", metadata={"tags": ["x"]})
    nbformat.write(notebook, tmp_path / "a.ipynb")
    return tmp_path


def test_diff_of_a_notebook_is_its_text(clone: Path) -> None:
    (clone / ".venv").symlink_to(sys.prefix)
    diff = git(clone, "diff", "a.ipynb")
    assert "-print(1)\n" in diff
    assert "+print(2)\n" in diff
    assert "cell_type" not in diff


def test_diff_without_the_environment_is_plain(clone: Path) -> None:
    assert '+    "print(2)"' in git(clone, "diff", "a.ipynb")


def test_merge_uses_the_notebook_driver(clone: Path) -> None:
    (clone / ".venv").symlink_to(sys.prefix)
    driver = git(clone, "config", "merge.jupyternotebook.driver").split()[0]
    assert (clone / driver).exists()
    assert "merge: jupyternotebook" in git(clone, "check-attr", "merge", "a.ipynb")


def test_nothing_is_configured_outside_a_clone(tmp_path: Path) -> None:
    bootstrap.configure_git(tmp_path)
    assert list(tmp_path.iterdir()) == []
