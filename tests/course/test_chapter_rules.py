"""Every chapter keeps every rule; and every rule refuses the defect that it is there for."""

from collections.abc import Callable
from pathlib import Path

import execute
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from tests.course import chapter_form, chapter_references
from tests.course.chapter_form import Chapter, Rule, code_cells, read_chapter
from tests.course.model_chapter import build, printing

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "course").glob("[0-9][0-9]_*.ipynb"))
RULES = [*chapter_form.RULES, *chapter_references.RULES]


def test_there_is_a_chapter() -> None:
    assert CHAPTERS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_keeps_the_rule(path: Path, rule: Rule) -> None:
    assert rule(read_chapter(path)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_model_chapter_keeps_the_rule(tmp_path: Path, rule: Rule) -> None:
    assert rule(build(tmp_path)) == []


def replace(number: int, old: str, new: str) -> Callable[[Chapter], None]:
    """A defect: other text in one cell, which must have held the old text."""

    def defect(chapter: Chapter) -> None:
        cell = chapter.notebook.cells[number]
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return defect


def printed(text: str, name: str = "stdout") -> Callable[[Chapter], None]:
    """A defect: other stored text in the last code cell."""

    def defect(chapter: Chapter) -> None:
        chapter.notebook.cells[-1].outputs[0].update(text=text, name=name)

    return defect


def without(word: str) -> Callable[[Chapter], None]:
    """A defect: the headings with this word are gone."""

    def defect(chapter: Chapter) -> None:
        cells = chapter.notebook.cells
        kept = [c for c in cells if not (c.source.startswith("## ") and word in c.source)]
        assert len(kept) < len(cells)
        chapter.notebook.cells = kept

    return defect


def metadata(number: int, **values: object) -> Callable[[Chapter], None]:
    """A defect: other metadata in one cell."""
    return lambda chapter: chapter.notebook.cells[number].metadata.update(values)


def swap_sources_and_recap(chapter: Chapter) -> None:
    cells = chapter.notebook.cells
    cells[-3], cells[-2] = cells[-2], cells[-3]


def store_an_error(chapter: Chapter) -> None:
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    code_cells(chapter)[3][1].outputs.append(error)


def show_an_unprinted_figure(chapter: Chapter) -> None:
    cells = code_cells(chapter)
    number = next(n for n, (_, cell) in enumerate(cells) if len(cell.outputs) == 2)
    del cells[number][1].outputs[0]
    cells[number - 1][1].outputs = []


def grow_the_file(chapter: Chapter) -> None:
    chapter.path.write_text(" " * (execute.BYTES + 1), "utf-8")


def remove(place: str) -> Callable[[Chapter], None]:
    """A defect: a file of the house is gone."""
    return lambda chapter: (chapter.path.parent.parent / place).unlink()


def add(cell: object) -> Callable[[Chapter], None]:
    """A defect: one more cell, before the last."""
    return lambda chapter: chapter.notebook.cells.insert(-1, cell)


PACKAGE = "companion/wasserstein/__init__.py"
EXERCISES = "course/exercises/source/wasserstein/wasserstein.ipynb"
DEFECTS = [
    (chapter_form.check_opening, replace(0, "# Wasserstein", "Wasserstein"), "# Title"),
    (chapter_form.check_opening, replace(0, "sand?", "sand."), "no question"),
    (chapter_form.check_opening, replace(0, "**Running time**", ""), "Running time"),
    (chapter_form.check_opening, replace(0, "- move", "move"), "0 list items"),
    (chapter_form.check_opening, replace(0, "- call", "- x\n- y\n- call"), "5 list items"),
    (chapter_form.check_first_code_cell, replace(1, "torch.manual_seed(0)", ""), "a seed"),
    (chapter_form.check_first_code_cell, replace(1, "# Dimension key", "#"), "dimension key"),
    (chapter_form.check_first_code_cell, replace(1, "import", "#"), "imports"),
    (chapter_form.check_first_code_cell, replace(1, "time.perf_counter()", "0"), "clock"),
    *((chapter_form.check_parts, without(p), p) for p in ("Predict", "naive", "efficient")),
    *((chapter_form.check_parts, without(p), p) for p in ("companion", "real", "cost", "fails")),
    *((chapter_form.check_parts, without(p), p) for p in ("Exercises", "Recap", "Sources")),
    (chapter_form.check_parts, swap_sources_and_recap, "Sources"),
    (chapter_form.check_derivation, lambda c: c.notebook.cells.pop(3), "4 code cells"),
    (chapter_form.check_package, replace(11, "wasserstein", "gan"), "companion.wasserstein"),
    (chapter_form.check_hints, replace(16, "dropdown", "open"), "no folded hint"),
    (chapter_form.check_running_cost, printed("time 1.0 s\n"), "no row `peak memory"),
    (chapter_form.check_running_cost, printed("time 99.0 s\npeak memory 1 GiB\n"), "99.0 s"),
    (chapter_form.check_running_cost, printed("time 9.0 s\npeak memory 5 GiB\n"), "5 GiB"),
    (chapter_form.check_code, add(new_code_cell("1\n" * 16)), "17 lines"),
    (chapter_form.check_code, add(new_code_cell("%pip install torch")), "installs"),
    (chapter_form.check_code, add(new_code_cell("# NBVAL_SKIP\n1")), "a comment"),
    (chapter_form.check_code, add(new_code_cell("torch.set_num_threads(2)")), "sets threads"),
    (chapter_form.check_tags, metadata(3, tags=["nbval-skip"]), "nbval-skip"),
    (chapter_form.check_tags, metadata(3, tags=["raises-exception"]), "raises-exception"),
    (chapter_form.check_tags, metadata(3, tags=["nbval-ignore-output"]), "measures nothing"),
    (chapter_form.check_tags, printed("fast\n"), "prints no figure"),
    (chapter_form.check_outputs, store_an_error, "an error"),
    (chapter_form.check_outputs, printed("careful\n", "stderr"), "stderr"),
    (chapter_form.check_outputs, printed("/home/ada/x\n"), "a place on a machine"),
    (chapter_form.check_outputs, printed("<object object at 0x7f7c3efa71c0>\n"), "address"),
    (chapter_form.check_figures, metadata(13, mystnb={}), "without alt text"),
    (chapter_form.check_figures, show_an_unprinted_figure, "nothing printed"),
    (chapter_form.check_clean, metadata(3, collapsed=True), "metadata not clean"),
    (chapter_form.check_clean, lambda c: c.notebook.cells[3].update(id="x"), "id not clean"),
    (chapter_form.check_clean, replace(3, "print", "repr"), "id not clean"),
    (
        chapter_form.check_clean,
        lambda c: c.notebook.cells[3].update(execution_count=1),
        "execution_count not clean",
    ),
    (
        chapter_form.check_clean,
        lambda c: c.notebook.metadata.kernelspec.update(name="my-env"),
        "notebook's metadata",
    ),
    (chapter_form.check_size, grow_the_file, "the budget is 2 MB"),
    (chapter_references.check_links, replace(0, "notation.md", "notes.md"), "notes.md#keys"),
    (chapter_references.check_links, add(new_markdown_cell("![](no.png)")), "no.png"),
    (chapter_references.check_links, add(new_markdown_cell("{doc}`nowhere`")), "nowhere"),
    (chapter_references.check_links, add(new_markdown_cell("{download}`a.csv`")), "a.csv"),
    (chapter_references.check_citations, replace(0, "villani2009", "villani2099"), "villani2099"),
    (chapter_references.check_terms, replace(0, "term-transport-plan", "term-plan"), "`term-plan`"),
    (
        chapter_references.check_terms,
        add(new_markdown_cell("{term}`a <b>`")),
        "{term}`b` leads nowhere",
    ),
    (chapter_references.check_names, replace(0, "training.fit", "training.fits"), "fits"),
    (chapter_references.check_names, add(new_markdown_cell("`companion.nothing`")), "nothing"),
    (chapter_references.check_places, remove(PACKAGE), PACKAGE),
    (
        chapter_references.check_places,
        remove(EXERCISES),
        EXERCISES,
    ),
]


@pytest.mark.parametrize(("rule", "defect", "message"), DEFECTS)
def test_rule_refuses_the_defect(
    tmp_path: Path, rule: Rule, defect: Callable[[Chapter], None], message: str
) -> None:
    chapter = build(tmp_path)
    defect(chapter)
    assert any(message in line for line in rule(chapter)), rule(chapter)


def test_every_rule_has_a_defect() -> None:
    assert {rule for rule, _, _ in DEFECTS} == set(RULES)


def test_code_blocks_and_spans_are_no_prose(tmp_path: Path) -> None:
    chapter = build(tmp_path)
    text = "`table[1](x)`\n\n```python\n# {term}`none` [a](b.md)\n```\n"
    chapter.notebook.cells.append(new_markdown_cell(text))
    assert [line for rule in chapter_references.RULES for line in rule(chapter)] == []


def test_link_in_a_directive_is_prose(tmp_path: Path) -> None:
    chapter = build(tmp_path)
    chapter.notebook.cells.append(new_markdown_cell("```{note}\n[a](b.md)\n```"))
    assert chapter_references.check_links(chapter) == ["the link b.md leads to no file"]


def test_figure_may_follow_the_cell_that_prints(tmp_path: Path) -> None:
    chapter = build(tmp_path)
    at = next(n for n, cell in code_cells(chapter) if len(cell.outputs) == 2)
    del chapter.notebook.cells[at].outputs[0]
    chapter.notebook.cells.insert(at, printing("print(4)", "4\n"))
    assert chapter_form.check_figures(chapter) == []
