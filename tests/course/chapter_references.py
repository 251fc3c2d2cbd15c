"""What a chapter refers to exists: files, citations, glossary terms, names of the package.

Rules of the same kind as in ``chapter_form.py``.
"""

import importlib
import re
from pathlib import Path

from sphinx.util.nodes import _make_id

from tests.course.chapter_form import Chapter, Rule, without_code

ROLE = r"\{%s\}`([^`]+)`"


def prose(chapter: Chapter) -> str:
    """All Markdown, less plain code blocks; the contents of directives stay."""
    cells = [cell for cell in chapter.notebook.cells if cell.cell_type == "markdown"]
    return "\n\n".join(without_code(cell.source) for cell in cells)


def targets(text: str, role: str) -> list[str]:
    """What a MyST role points at: the text itself, or the part in angle brackets."""
    found = re.findall(ROLE % role, text)
    return [re.sub(r"^.*<(.+)>$", r"\1", target, flags=re.DOTALL) for target in found]


def check_links(chapter: Chapter) -> list[str]:
    """Relative links, images, {doc} and {download} lead to files."""
    text = prose(chapter)
    links = re.findall(r"\]\(\s*<?([^)\s>]+)", re.sub(r"(?<![}`])`[^`\n]+`", "", text))
    links += re.findall(r"^(?:```+|:::+)\{(?:image|figure)\}\s+(\S+)", text, re.MULTILINE)
    links += targets(text, "download")
    wrong = []
    for link in links:
        file = link.partition("#")[0]
        if file and not re.match(r"[a-z]+:", link) and not (chapter.path.parent / file).exists():
            wrong.append(f"the link {link} leads to no file")
    for page in targets(text, "doc"):
        if not any((chapter.path.parent / (page + end)).exists() for end in ("", ".md", ".ipynb")):
            wrong.append(f"{{doc}}`{page}` leads to no page")
    return wrong


def check_citations(chapter: Chapter) -> list[str]:
    """Every cited key is in references.bib."""
    bib = chapter.path.parent / "references.bib"
    known = set(re.findall(r"^@\w+\{([^,\s]+),", bib.read_text("utf-8"), re.MULTILINE))
    cited = targets(prose(chapter), r"cite(?::\w+)?")
    keys = {key.strip() for group in cited for key in group.split(",")}
    return [f"the citation `{key}` is not in references.bib" for key in sorted(keys - known)]


def glossary_terms(text: str) -> set[str]:
    """Targets of the {glossary} directives' terms, as Sphinx spells them."""
    blocks = re.findall(r"^(?P<f>```+|:::+)\{glossary\}\n(.*?)^(?P=f)", text, re.M | re.S)
    lines = [line for _, block in blocks for line in block.splitlines()]
    terms = [line.strip() for line in lines if line.strip() and line[0] not in " \t:"]
    return {_make_id(f"term-{term}") for term in terms}


def check_terms(chapter: Chapter) -> list[str]:
    """Every link to a term leads to one, in JupyterLab as well, where the role {term} does not."""
    known = glossary_terms((chapter.path.parent / "glossary.md").read_text("utf-8"))
    text = prose(chapter)
    wrong = [
        f"{{term}}`{term}` leads nowhere in JupyterLab: [{term}](glossary.md#term-…)"
        for term in targets(text, "term")
    ]
    linked = set(re.findall(r"\]\(glossary\.md#([^)\s]+)\)", text))
    return wrong + [f"`{link}` is not in glossary.md" for link in sorted(linked - known)]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or can be reached from one by attributes."""
    words = name.split(".")
    for length in range(len(words), 0, -1):
        try:
            thing = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:]:
            if not hasattr(thing, word):
                return False
            thing = getattr(thing, word)
        return True
    return False


def check_names(chapter: Chapter) -> list[str]:
    """Every `companion.…` in backticks can be imported."""
    spans = re.findall(r"`([^`\n]+)`", prose(chapter))
    names = {n for span in spans for n in re.findall(r"\bcompanion(?:\.[A-Za-z_]\w*)+", span)}
    return [f"`{name}` cannot be imported" for name in sorted(names) if not resolves(name)]


def check_places(chapter: Chapter) -> list[str]:
    """One slug names the chapter's package, tests and exercises."""
    root: Path = chapter.path.parent.parent
    if not re.fullmatch(r"\d\d_[a-z][a-z0-9]*", chapter.path.stem):
        return [f"the file is called {chapter.path.name}, expected NN_slug.ipynb"]
    places = [
        f"companion/{chapter.slug}/__init__.py",
        f"tests/{chapter.slug}",
        f"course/exercises/source/{chapter.slug}/{chapter.slug}.ipynb",
    ]
    return [f"{place} is missing" for place in places if not (root / place).exists()]


RULES: list[Rule] = [
    check_links,
    check_citations,
    check_terms,
    check_names,
    check_places,
]
