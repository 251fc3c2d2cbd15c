"""`make chapter`: the same source gives the same file, and a failure leaves the file alone."""

import json
import subprocess
import sys
from pathlib import Path

import execute
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

SCRIPT = Path(execute.__file__)
WIDGETS = """\
import ipywidgets as widgets

forgotten = widgets.IntSlider()
frames = widgets.Stack([widgets.HTML("one"), widgets.HTML("two")], selected_index=0)
slider, play = widgets.IntSlider(max=1), widgets.Play(max=1)
widgets.jslink((slider, "value"), (frames, "selected_index"))
widgets.jslink((play, "value"), (slider, "value"))
widgets.VBox([frames, slider, play])"""


def make(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def save(path: Path, *sources: str) -> Path:
    """A notebook as an editor leaves it: random ids, stray metadata, another kernel's name."""
    cells = [new_markdown_cell("# Title  \n\n"), *(new_code_cell(source) for source in sources)]
    for cell in cells:
        cell.metadata.update(collapsed=False, tags=["keep"])
    kernelspec = {"name": "my-env", "display_name": "Mine"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernelspec, "x": 1}), path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook with every kind of thing that is random or stray, after `make chapter`."""
    sources = ["for n in range(3):\n    print(n, flush=True)", WIDGETS, "2 + 3", "2 + 3"]
    path = save(tmp_path_factory.mktemp("made") / "made.ipynb", *sources)
    done = make(path)
    assert done.returncode == 0, done.stderr
    assert "MB of 2" in done.stdout
    return path


def test_twice_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    cells = nbformat.read(made, as_version=4).cells[1:]
    again = save(tmp_path / "again.ipynb", *(cell.source for cell in cells))
    assert make(again).returncode == 0
    assert made.read_bytes() == again.read_bytes()


def test_nothing_random_or_stray_is_left(made: Path) -> None:
    notebook = nbformat.read(made, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "widgets"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.metadata for cell in notebook.cells] == [{"tags": ["keep"]}] * 5
    assert {cell.get("execution_count") for cell in notebook.cells} == {None}
    assert [output.text for output in notebook.cells[1].outputs] == ["0\n1\n2\n"]
    assert len({cell.id for cell in notebook.cells}) == 5


def test_shown_widgets_are_kept_with_all_that_they_name(made: Path) -> None:
    notebook = nbformat.read(made, as_version=4)
    state = notebook.metadata.widgets[execute.WIDGET_STATE].state
    names = {key: model["model_name"] for key, model in state.items()}
    shown = {
        output.data[execute.WIDGET_VIEW].model_id
        for cell in notebook.cells[1:]
        for output in cell.outputs
        if execute.WIDGET_VIEW in output.get("data", {})
    }
    words = [word for word in json.dumps(state).split('"') if word.startswith(execute.REFERENCE)]
    named = {word.removeprefix(execute.REFERENCE) for word in words}
    links = {key for key, name in names.items() if name == "LinkModel"}
    assert [names[key] for key in shown] == ["VBoxModel"]
    assert len(links) == 2, "frames without their links answer nobody"
    assert [*names.values()].count("IntSliderModel") == 1, "the forgotten slider is kept"
    assert named | shown | links == set(state)


@pytest.mark.parametrize(
    ("source", "message"),
    [("1 / 0", "ZeroDivisionError"), ("import os; os._exit(1)", "died")],
)
def test_a_failing_cell_leaves_the_file_alone(tmp_path: Path, source: str, message: str) -> None:
    path = save(tmp_path / "failing.ipynb", "print(1)", source)
    before = path.read_bytes()
    done = make(path)
    assert done.returncode == 1
    assert message in done.stderr
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["failing.ipynb"]


def test_a_full_disk_leaves_the_file_alone(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "chapter.ipynb", "print(1)")
    before = path.read_bytes()

    def full_disk(file: Path, text: str, **_: object) -> None:
        file.write_bytes(text[:10].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        execute.make_chapter(path, run=False)
    assert path.read_bytes() == before


def test_cells_run_in_the_chapters_folder(tmp_path: Path) -> None:
    (tmp_path / "beside.txt").write_text("found")
    path = save(tmp_path / "chapter.ipynb", "print(open('beside.txt').read())")
    execute.make_chapter(path, run=True)
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].text == "found\n"


def test_a_cell_that_hangs_is_stopped(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(execute, "TIMEOUT", 1)
    path = save(tmp_path / "chapter.ipynb", "import time\ntime.sleep(20)")
    with pytest.raises(execute.CellTimeoutError):
        execute.make_chapter(path, run=True)


@pytest.mark.parametrize("used", [(1.0, 1.0), (91.0, 1.0), (1.0, 4.1)])
def test_a_chapter_over_its_budget_is_told(tmp_path: Path, monkeypatch, used) -> None:
    monkeypatch.setattr(execute, "execute", lambda notebook, folder: used)
    line = execute.make_chapter(save(tmp_path / "chapter.ipynb", "1"), run=True)
    assert line.startswith("OVER BUDGET") == (used != (1.0, 1.0))


def test_a_large_file_is_not_written(tmp_path: Path) -> None:
    path = save(tmp_path / "large.ipynb", f"print('x' * {execute.BYTES})")
    before = path.read_bytes()
    done = make(path)
    assert done.returncode == 1
    assert "expected at most 2 MB, got 2.0" in done.stderr
    assert path.read_bytes() == before


def test_clean_only_runs_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "stored.ipynb", "1 / 0")
    notebook = nbformat.read(path, as_version=4)
    stored = new_output("execute_result", {"text/plain": "7"}, execution_count=3)
    notebook.cells[1].update(outputs=[stored], execution_count=3)
    nbformat.write(notebook, path)
    assert make(path, "--clean-only").returncode == 0
    cell = nbformat.read(path, as_version=4).cells[1]
    assert cell.execution_count is None
    assert cell.outputs == [{**stored, "execution_count": None}]


def test_stale_widget_output_is_refused() -> None:
    view = new_output("display_data", {execute.WIDGET_VIEW: {"model_id": "gone"}})
    notebook = new_notebook(cells=[new_code_cell("w", outputs=[view])])
    with pytest.raises(ValueError, match="state of widget gone"):
        execute.rename_widgets(notebook, {})
