"""The smallest chapter that keeps every rule, for the tests to break, one defect at a time."""

from pathlib import Path

import execute
from nbformat import NotebookNode, write
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)

from tests.course.chapter_form import Chapter

OPENING = """\
# Wasserstein

How far apart are two piles of sand?

You will be able to

- move a [transport plan](glossary.md#term-transport-plan);
- read {cite:t}`villani2009`, and [the notation](notation.md#keys);
- call `companion.training.fit(...)`.

**Prerequisites** none. **Running time** 1 s."""
FIRST = """\
import time
import torch
# Dimension key: B batch
started = time.perf_counter()
torch.manual_seed(0)"""
LAST = """\
seconds = time.perf_counter() - started
print(f"time {seconds:.1f} s")
print("peak memory 0.50 GiB")"""


def printing(source: str, text: str, **metadata: object) -> NotebookNode:
    """A code cell with its stored standard output."""
    outputs = [new_output("stream", name="stdout", text=text)]
    return new_code_cell(source, outputs=outputs, metadata=metadata)


def figure() -> NotebookNode:
    """A cell that prints a number and draws it."""
    cell = printing("print(3)", "3\n", mystnb={"image": {"alt": "A line."}})
    cell.outputs.append(new_output("display_data", {"image/png": "iVBORw0KGgo="}))
    return cell


def build(root: Path) -> Chapter:
    """Write the chapter, and all that it refers to, under ``root``."""
    cells = [new_markdown_cell(OPENING), new_code_cell(FIRST), new_markdown_cell("## Predict")]
    cells += [printing(f"print({n})", f"{n}\n") for n in range(5)]
    cells += [new_markdown_cell(f"## The {word} version") for word in ("naive", "efficient")]
    cells += [new_markdown_cell("## From `companion`")]
    cells += [new_code_cell("from companion.wasserstein import exact_transport")]
    cells += [new_markdown_cell("## On real data"), figure()]
    cells += [new_markdown_cell(f"## {words}") for words in ("What it costs", "Where it fails")]
    cells += [new_markdown_cell("## Exercises\n\n```{hint}\n:class: dropdown\nBegin.\n```")]
    cells += [new_markdown_cell(f"## {word}") for word in ("Recap", "Sources")]
    cells += [printing(LAST, "time 1.0 s\npeak memory 0.50 GiB\n", tags=["nbval-ignore-output"])]
    chapter = Chapter(new_notebook(cells=cells), root / "course" / "02_wasserstein.ipynb")
    execute.clean(chapter.notebook)
    texts = {
        "course/notation.md": "# Notation",
        "course/references.bib": "@book{villani2009,\n  title = {Optimal Transport}\n}\n",
        "course/glossary.md": "# Glossary\n\n```{glossary}\ntransport plan\n  A table.\n```\n",
        "companion/wasserstein/__init__.py": "",
        "tests/wasserstein/test_one.py": "",
        "course/exercises/source/wasserstein/wasserstein.ipynb": "{}",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    write(chapter.notebook, chapter.path)
    return chapter
