"""An English corpus that every Python installation carries."""

__all__ = ["reference_text"]


def reference_text() -> str:
    """The Python language reference as plain English text, about 0.37 million characters.

    Origin: CPython's ``pydoc_data.topics``, the pages behind Python's own ``help("for")``.
    Licence: PSF License 2.0 (© Python Software Foundation).
    Difference: a page that only repeats paragraphs of longer pages is left out ("if" stands in
    "compound" too), so a split into training and test text shares almost no sentence.
    The text changes slightly with the version of Python.

    Returns:
        Pages in alphabetical order of their topic, separated by blank lines.

    Raises:
        ImportError: If this Python was packaged without ``pydoc_data``.

    Example:
        >>> reference_text()[:24]
        'The "assert" statement\\n*'
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError(
            "this Python was packaged without pydoc_data; install a full Python, "
            "such as the one from python.org, then run: make lab"
        ) from error
    return "\n\n".join(topics[name].strip() for name in _without_repeats(topics))


def _without_repeats(topics: dict[str, str]) -> list[str]:
    """Topics with at least one long paragraph that no longer topic holds."""
    seen: set[str] = set()
    kept = []
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        paragraphs = {p.strip() for p in topics[name].split("\n\n") if len(p.strip()) > 80}
        if paragraphs and paragraphs <= seen:
            continue
        seen |= paragraphs
        kept.append(name)
    return sorted(kept)
