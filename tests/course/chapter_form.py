"""The form that every chapter keeps: its parts in order, its cells, its stored outputs.

Each rule is a function ``check_…(chapter) -> list[str]`` that returns what is wrong, one line each.
``test_chapter_form.py`` applies all of them to every chapter, and plants every defect once.
"""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import execute
import nbformat
from nbformat import NotebookNode

LINES_PER_CELL = 15
DERIVATION_CELLS = 5
LEARNING_GOALS = range(3, 5)
TAGS = {
    "nbval-ignore-output",
    *("hide-input", "hide-output", "hide-cell", "remove-input", "remove-output", "remove-cell"),
}
# One word of each heading, in the order of the chapter's skeleton.
PARTS = {
    "Predict": r"predict",
    "naive": r"naive",
    "efficient": r"efficient|fast|faster",
    "companion": r"companion|package",
    "real": r"real",
    "cost": r"costs?",
    "fails": r"fails?",
    "Exercises": r"exercises",
    "Recap": r"recap",
    "Sources": r"sources",
}
MEASURES = r"perf_counter|timeit|getrusage|psutil|max_memory_allocated|tracemalloc|peak_bytes"
FIGURE_WITH_UNIT = r"\d\s*(?:s|ms|µs|us|min|h|B|kB|MB|GB|KiB|MiB|GiB)\b"
PLACE_ON_A_MACHINE = r"/(?:home|root|Users|tmp|opt|usr|mnt|private|var)/\w|\b[A-Z]:\\"


class Chapter(NamedTuple):
    """A notebook and the place where it stands."""

    notebook: NotebookNode
    path: Path

    @property
    def slug(self) -> str:
        return self.path.stem.partition("_")[2]


Rule = Callable[[Chapter], list[str]]


def read_chapter(path: Path) -> Chapter:
    return Chapter(nbformat.read(path, as_version=4), path)


def code_cells(chapter: Chapter) -> list[tuple[int, NotebookNode]]:
    return [(n, cell) for n, cell in enumerate(chapter.notebook.cells) if cell.cell_type == "code"]


def without_code(markdown: str) -> str:
    """Markdown less its plain code blocks; what stands inside a directive stays."""
    kept: list[str] = []
    directives: list[str] = []  # the marks that close the open directives
    block = ""  # the mark that closes the open code block
    for line in markdown.splitlines():
        fence = re.match(r"\s*(`{3,}|~{3,}|:{3,})\s*(.*)", line)
        mark, label = fence.groups() if fence else ("", "")
        if block:
            block = "" if mark.startswith(block) and not label else block
            continue
        if label.startswith("{"):
            directives.append(mark)
        elif mark and directives and mark == directives[-1]:
            directives.pop()
        elif mark:
            block = mark
            continue
        kept.append(line)
    return "\n".join(kept)


def headings(chapter: Chapter) -> list[tuple[int, str]]:
    """Cell number and text of every heading of level 2 or 3, code blocks left out."""
    found = []
    for number, cell in enumerate(chapter.notebook.cells):
        if cell.cell_type == "markdown":
            titles = re.findall(r"^###?\s+(.+)$", without_code(cell.source), re.MULTILINE)
            found += [(number, title) for title in titles]
    return found


def parts(chapter: Chapter) -> dict[str, int]:
    """The cell in which each part of the skeleton begins, as far as they come in order."""
    places, remaining = {}, iter(headings(chapter))
    for part, word in PARTS.items():
        for number, heading in remaining:
            if re.search(rf"\b(?:{word})\b", heading, re.IGNORECASE):
                places[part] = number
                break
    return places


def text_of(cell: NotebookNode) -> str:
    """Everything that a cell has printed to its standard output."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def mime_types(cell: NotebookNode) -> set[str]:
    return {mime for output in cell.outputs for mime in output.get("data", {})}


def check_opening(chapter: Chapter) -> list[str]:
    """A title, the question, three or four goals, prerequisites and the running time."""
    cells = chapter.notebook.cells
    first_code = next((n for n, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    text = "\n".join(cell.source for cell in cells[:first_code])
    wrong = []
    if not cells or not re.match(r"# \S", cells[0].source):
        wrong.append("the first cell does not begin with `# Title`")
    if not cells or not re.search(r"\?\W*(?:\n|$)", cells[0].source):
        wrong.append("the first cell asks no question in a sentence that ends a line")
    wrong += [
        f"the opening does not say: {words}"
        for words in ("You will be able to", "Prerequisites", "Running time")
        if words.lower() not in text.lower()
    ]
    goals = re.search(r"you will be able to.*\n+((?:(?:[-*]|\d\.) .*\n?(?: +.*\n?)*)+)", text, re.I)
    count = len(re.findall(r"^(?:[-*]|\d\.) ", goals[1], re.MULTILINE)) if goals else 0
    if count not in LEARNING_GOALS:
        wrong.append(f"`You will be able to` is followed by {count} list items, expected 3 or 4")
    return wrong


def check_first_code_cell(chapter: Chapter) -> list[str]:
    """Imports, the seed, the clock and the dimension key stand in the first code cell."""
    source = next((cell.source for _, cell in code_cells(chapter)), "")
    needed = {
        "imports": r"^(?:import|from) ",
        "a seed": r"manual_seed\(\d|default_rng\(\d",
        "the dimension key": r"(?i:dimension key)",
        "the start of the clock": r"perf_counter\(\)",
    }
    return [
        f"the first code cell has not: {what}"
        for what, pattern in needed.items()
        if not re.search(pattern, source, re.MULTILINE)
    ]


def check_parts(chapter: Chapter) -> list[str]:
    """The headings of the skeleton are there, in order."""
    found = parts(chapter)
    return [f"no heading with the word `{p}` in its place" for p in PARTS if p not in found]


def check_derivation(chapter: Chapter) -> list[str]:
    """The steps between the prediction and the naive version are checked on numbers."""
    found = parts(chapter)
    begin, end = found.get("Predict", 0), found.get("naive", 0)
    count = sum(begin < number < end for number, _ in code_cells(chapter))
    if count < DERIVATION_CELLS:
        return [f"the derivation has {count} code cells, expected at least {DERIVATION_CELLS}"]
    return []


def check_package(chapter: Chapter) -> list[str]:
    """The chapter ends up calling its package, after the idea was shown without it."""
    start = parts(chapter).get("companion", 0)
    line = rf"^from companion\.{chapter.slug}(?:\.\w+)* import "
    users = [n for n, cell in code_cells(chapter) if re.search(line, cell.source, re.MULTILINE)]
    if not any(number >= start for number in users):
        return [f"no cell under the `companion` heading has: from companion.{chapter.slug} import"]
    return []


def check_hints(chapter: Chapter) -> list[str]:
    """The exercises have hints that are folded away."""
    found = parts(chapter)
    cells = chapter.notebook.cells[found.get("Exercises", 0) : found.get("Recap", 0)]
    if any("dropdown" in cell.source for cell in cells):
        return []
    return ["no folded hint (`:class: dropdown`) between `Exercises` and `Recap`"]


def check_running_cost(chapter: Chapter) -> list[str]:
    """The last code cell prints time and peak memory, and both are inside the budgets."""
    cells = code_cells(chapter)
    printed = text_of(cells[-1][1]) if cells else ""
    wrong = []
    for row, unit, budget in [("time", "s", execute.SECONDS), ("peak memory", "GiB", execute.GIB)]:
        found = re.search(rf"^{row}\s+([\d.]+) {unit}\b", printed, re.MULTILINE)
        if not found:
            wrong.append(f"the last code cell prints no row `{row} … {unit}`")
        elif float(found[1]) > budget:
            wrong.append(f"{row}: {found[1]} {unit}, the budget is {budget} {unit}")
    return wrong


def check_code(chapter: Chapter) -> list[str]:
    """Short cells, which install nothing, take no cores and leave nbval's switches to tags."""
    wrong = []
    for number, cell in code_cells(chapter):
        lines = cell.source.count("\n") + 1
        if lines > LINES_PER_CELL:
            wrong.append(f"cell {number}: {lines} lines, expected at most {LINES_PER_CELL}")
        if re.search(r"^\s*[%!]\s*(?:pip|conda|mamba)\b", cell.source, re.MULTILINE):
            wrong.append(f"cell {number}: installs something")
        if re.search(r"#\s*(?:NBVAL|PYTEST_VALIDATE)_", cell.source):
            wrong.append(f"cell {number}: a comment switches nbval, expected a tag")
        if re.search(r"set_num_threads\((?!1\))\d", cell.source):
            wrong.append(f"cell {number}: sets threads, expected at most torch.get_num_threads()")
    return wrong


def check_tags(chapter: Chapter) -> list[str]:
    """Only known tags; nothing is skipped; only measured cells have their outputs ignored."""
    wrong = []
    for number, cell in code_cells(chapter):
        tags = set(cell.metadata.get("tags", []))
        wrong += [f"cell {number}: unknown tag `{tag}`" for tag in sorted(tags - TAGS)]
        if "nbval-ignore-output" in tags:
            if not re.search(MEASURES, cell.source):
                wrong.append(f"cell {number}: `nbval-ignore-output`, but it measures nothing")
            if not re.search(FIGURE_WITH_UNIT, text_of(cell)):
                wrong.append(f"cell {number}: `nbval-ignore-output`, but it prints no figure")
    return wrong


def check_outputs(chapter: Chapter) -> list[str]:
    """No error, no warning and nothing that another machine would print otherwise is stored."""
    wrong = []
    for number, cell in code_cells(chapter):
        for output in cell.outputs:
            if output.output_type == "error":
                wrong.append(f"cell {number}: an error is stored ({output.ename})")
            if output.output_type == "stream" and output.name == "stderr":
                wrong.append(f"cell {number}: stderr is stored ({output.text.strip()[:60]})")
            shown = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            if re.search(PLACE_ON_A_MACHINE, shown):
                wrong.append(f"cell {number}: the output names a place on a machine")
            if re.search(r"\bat 0x[0-9a-fA-F]{6,}", shown):
                wrong.append(f"cell {number}: the output names an address in memory")
    return wrong


def check_figures(chapter: Chapter) -> list[str]:
    """A figure has alt text; what it shows is also printed, there or in the code cell before."""
    wrong, before = [], ""
    for number, cell in code_cells(chapter):
        printed = text_of(cell)
        if mime_types(cell) & {"image/png", "image/jpeg", "image/svg+xml"}:
            if not cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip():
                wrong.append(f"cell {number}: a figure without alt text (mystnb.image.alt)")
            if not (printed or before).strip():
                wrong.append(f"cell {number}: a figure, and nothing printed of what it shows")
        before = printed
    return wrong


def check_clean(chapter: Chapter) -> list[str]:
    """The file is what `make chapter` writes: counts, kernelspec, metadata, ids, widget state."""
    cleaned = copy.deepcopy(chapter.notebook)
    execute.clean(cleaned)
    wrong = []
    if cleaned.metadata != chapter.notebook.metadata:
        wrong.append("the notebook's metadata is not clean: run `make chapter`")
    for number, (is_, should) in enumerate(zip(chapter.notebook.cells, cleaned.cells, strict=True)):
        keys = sorted(key for key in {*is_, *should} if is_.get(key) != should.get(key))
        if keys:
            wrong.append(f"cell {number}: {', '.join(keys)} not clean: run `make chapter`")
    return wrong


def check_size(chapter: Chapter) -> list[str]:
    """Small enough to clone, diff and open."""
    size = chapter.path.stat().st_size
    return [f"{size / 1e6:.2f} MB, the budget is 2 MB"] if size > execute.BYTES else []


RULES: list[Rule] = [
    check_opening,
    check_first_code_cell,
    check_parts,
    check_derivation,
    check_package,
    check_hints,
    check_running_cost,
    check_code,
    check_tags,
    check_outputs,
    check_figures,
    check_clean,
    check_size,
]
