"""Execute a chapter from a cold start, clean it, write it back: `make chapter NB=course/…`.

Cleaned means that the file depends on nothing but the chapter's source and what its cells compute:
null execution counts, one kernelspec, no stray metadata, and ids (of cells and of widgets) that are
derived from content instead of drawn at random. Executing a chapter twice gives the same bytes,
apart from cells that print a time or a memory figure.

    python jupyter_book/scripts/execute.py course/02_wasserstein.ipynb
    python jupyter_book/scripts/execute.py --clean-only course/*.ipynb
"""

import argparse
import hashlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

SECONDS, GIB, BYTES = 90, 4, 2_000_000  # budgets of one chapter: running time, peak memory, file
TIMEOUT = 10 * SECONDS  # a cell that hangs is stopped; a slow machine is not
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# What the kernel of bootstrap.py's environment says of itself: JupyterLab finds nothing to change.
LANGUAGE_INFO = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
    "version": "3",
}
CELL_METADATA = ("mystnb", "tags")  # the site reads alt texts and captions from `mystnb`
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
REFERENCE = "IPY_MODEL_"
FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError, ValueError, OSError)
LINKS = ("LinkModel", "DirectionalLinkModel")


def execute(notebook: NotebookNode, *, folder: Path) -> tuple[float, float]:
    """Run all cells in a new kernel; returns seconds and the kernel's peak memory in GiB."""
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name=KERNELSPEC["name"],
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=True,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # the kernel warns of its local ports at each start
    )
    notebook.metadata.pop("widgets", None)
    started = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - started
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss: bytes on macOS, KiB on Linux
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit


def clean(notebook: NotebookNode) -> None:
    """Bring a notebook, in place, to the one form that its content allows."""
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
    )
    if state is not None:
        kept = rename_widgets(notebook, state["state"])
        if kept:
            widgets = {"state": kept, "version_major": 2, "version_minor": 0}
            notebook.metadata["widgets"] = nbformat.from_dict({WIDGET_STATE: widgets})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.source = cell.source.rstrip()
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in CELL_METADATA if cell.metadata.get(key)}
        )
        cell.id = _cell_id(cell, seen)
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = merge_streams(cell.outputs)
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None


def _cell_id(cell: NotebookNode, seen: dict[str, int]) -> str:
    """Eight hexadecimal digits of the cell's content; a repeated cell is numbered."""
    text = f"{cell.cell_type}\n{cell.source}"
    seen[text] = seen.get(text, 0) + 1
    return _digest(f"{seen[text]}\n{text}", 8)


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where the kernel cut them is a matter of timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" and output.get("name") == last.get("name"):
            last.text += output.text
        else:
            merged.append(output)
    return merged


def rename_widgets(notebook: NotebookNode, state: dict) -> dict:
    """State of the widgets that are shown, under ids that depend on their order only.

    ipywidgets draws model ids at random, and also keeps the state of widgets that no output shows.
    """
    shown = [output.data[WIDGET_VIEW] for output in _widget_views(notebook)]
    order: dict[str, None] = {}
    for view in shown:
        _collect(view["model_id"], state, order)
    # A link between two widgets is named by neither: it is kept when both its ends are.
    numbers = {key: str(number) for number, key in enumerate(order)}
    links = sorted(
        (repr(_renamed(model["state"], numbers)), key)
        for key, model in state.items()
        if model["model_name"] in LINKS and set(_references(model["state"])) <= set(order)
    )
    for _, key in links:
        _collect(key, state, order)
    new = {key: _digest(f"widget {number}", 32) for number, key in enumerate(order)}
    for view in shown:
        view["model_id"] = new[view["model_id"]]
    return {new[old]: _renamed(state[old], new) for old in order}


def _widget_views(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """Outputs that show a widget, in the order of the cells."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if WIDGET_VIEW in output.get("data", {}):
                yield output


def _collect(key: str, state: dict, order: dict[str, None]) -> None:
    """Add a model and everything that it refers to, depth first, keys in alphabetical order."""
    if key not in state:
        raise ValueError(
            f"expected the state of widget {key}, got none: is its cell's output stale?"
        )
    if key not in order:
        order[key] = None
        for reference in _references(state[key]["state"]):
            _collect(reference, state, order)


def _references(value: object) -> Iterator[str]:
    """Ids of the models that a piece of widget state mentions."""
    if isinstance(value, str) and value.startswith(REFERENCE):
        yield value.removeprefix(REFERENCE)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _references(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _renamed(value: object, new: dict[str, str]) -> object:
    """A copy of a piece of widget state with every model id replaced."""
    if isinstance(value, str) and value.startswith(REFERENCE):
        return REFERENCE + new[value.removeprefix(REFERENCE)]
    if isinstance(value, dict):
        return {key: _renamed(value[key], new) for key in sorted(value)}
    if isinstance(value, list):
        return [_renamed(item, new) for item in value]
    return value


def write(notebook: NotebookNode, path: Path) -> None:
    """Replace the file at once, unless the notebook is invalid or too large."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook)
    text = text if text.endswith("\n") else text + "\n"
    size = len(text.encode())
    if size > BYTES:
        raise ValueError(f"expected at most {BYTES / 1e6:.0f} MB, got {size / 1e6:.2f} MB")
    temporary = path.with_suffix(".ipynb.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def make_chapter(path: Path, *, run: bool) -> str:
    """Execute (if asked) and clean one file; returns the line to print about it."""
    notebook = nbformat.read(path, as_version=4)
    report = f"{path}: "
    if run:
        seconds, gib = execute(notebook, folder=path.resolve().parent)
        report += f"{seconds:.1f} s of {SECONDS}, {gib:.2f} GiB of {GIB}, "
        if seconds > SECONDS or gib > GIB:
            report = "OVER BUDGET: " + report
    clean(notebook)
    write(notebook, path)
    return report + f"{path.stat().st_size / 1e6:.2f} MB of {BYTES / 1e6:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute and clean chapters.")
    parser.add_argument("chapters", nargs="+", type=Path)
    parser.add_argument("--clean-only", action="store_true", help="keep the stored outputs")
    arguments = parser.parse_args()
    for path in arguments.chapters:
        try:
            print(make_chapter(path, run=not arguments.clean_only))
        except FAILURES as error:
            print(f"{path}: not written\n{error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
