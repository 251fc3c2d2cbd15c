"""What the book needs of Sphinx beyond its settings: numbers by chapter, links to terms."""

import re
from collections.abc import Iterator

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

__all__ = ["link_terms", "number_by_chapter", "setup"]


def number_by_chapter(app: Sphinx, env: BuildEnvironment) -> Iterator[str]:
    """Number equations, theorems and figures as (chapter, k), with k from 1 in each chapter.

    Sphinx counts through the whole book, or by a page's place in the table of contents.
    Chapter 02 may be the first one that is published; its number is in its file's name.
    """
    for page, kinds in env.toc_fignumbers.items():
        match = re.match(r"(\d\d)_", page)
        chapter = (int(match[1]),) if match else ()
        for kind, numbers in kinds.items():
            ordered = sorted(numbers, key=numbers.get)
            kinds[kind] = {label: (*chapter, k) for k, label in enumerate(ordered, start=1)}
    return iter(())


def link_terms(app: Sphinx, env: BuildEnvironment) -> Iterator[str]:
    """Let a Markdown link lead to a term, as ``glossary.md#term-rank``, and not to headings only.

    JupyterLab follows such a link; Sphinx's own role {term} has no target there.
    """
    slugs = env.metadata["glossary"].setdefault("myst_slugs", {})
    for (kind, name), (_, target) in env.get_domain("std").objects.items():
        if kind == "term":
            slugs[target] = (0, target, name)  # line, id, text of a link that has none
    return iter(())


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when it loads this file."""
    app.add_config_value("comments_config", {}, "html")  # Jupyter Book sets it for sphinx_comments
    app.connect("env-get-updated", number_by_chapter, priority=900)  # Sphinx's own: 500
    app.connect("env-get-updated", link_terms)
    app.add_js_file("course.js", priority=100)  # before require.js, which reads its settings
    app.add_css_file("course.css", priority=900)  # after the theme's
    return {"parallel_read_safe": True, "parallel_write_safe": True}
