"""Imports run one way: a room knows what stands below it, and nothing beside or above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = (
    *("gan", "wasserstein", "vqvae", "vqgan", "adapters", "prefix", "lora", "precision"),
    *("flash", "processes", "collectives", "medusa", "mtp"),
)
# From the ground up; rooms of one floor do not import one another. Each chapter has its own floor.
FLOORS = [
    {"checks"},
    {"data", "explore", "measure", "training", "transformer"},
    {"language"},
    *({chapter} for chapter in CHAPTERS),
    {"bench"},
]


def floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imported(code: str) -> Iterator[str]:
    """Rooms of companion that some code imports, wherever in it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for words in (name.split(".") for name in names):
            if words[0] == "companion" and len(words) > 1:
                yield words[1]


def refused(room: str, code: str) -> set[str]:
    """Rooms that code of this room may not import."""
    others = set(imported(code)) - {room, "__version__"}
    return {other for other in others if floor(other) >= floor(room)}


FILES = sorted({*ROOT.glob("companion/*.py"), *ROOT.glob("companion/*/**/*.py")})
FILES.remove(ROOT / "companion" / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_upwards_or_sideways(path):
    room = path.relative_to(ROOT / "companion").parts[0].removesuffix(".py")
    assert refused(room, path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("room", "code", "bad"),
    [
        ("lora", "from companion.adapters.matching import replace_layers_", set()),
        ("adapters", "from companion.lora import add_lora", {"lora"}),
        ("training", "def f():\n    import companion.language.records", {"language"}),
        ("data", "from companion import training", {"training"}),
        ("wasserstein", "from companion.bench.records import Record", {"bench"}),
        ("bench", "from companion.mtp import heads", set()),
    ],
)
def test_what_runs_upwards_or_sideways_is_found(room, code, bad):
    assert refused(room, code) == bad
