"""The checker that every exercise notebook carries: it says what was expected and what came."""

import importlib.util
from pathlib import Path

import pytest

COURSE = Path(__file__).parents[2] / "course" / "exercises"


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location("expect", COURSE / "expect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("came", "expected", "shown"),
    [
        (None, 1.0, "NoneType None"),
        ([1.0, 2.0], [[1.0, 2.0]], "shape (2,)"),
        ([1.0, float("nan")], [1.0, 2.0], "nan at index [1]"),
        ([[1.0, 2.0], [3.0, 4.5]], [[1.0, 2.0], [3.0, 4.0]], "4.5 at index [1, 1]"),
        (0.1, float("inf"), "0.1"),
    ],
)
def test_expect_shows_what_came(checker, came, expected, shown):
    with pytest.raises(checker.NotYet) as caught:
        checker.expect("the sum", came, expected, hint="look here")
    title, _, line, hint = caught.value._render_traceback_()
    assert title == "✗ the sum"
    assert line == f"  came:     {shown}"
    assert hint == "  hint:     look here"


def test_expect_accepts_any_kind_of_number(checker, capsys):
    for came in (1, 1.0, [1.0][0], checker.torch.tensor(1, requires_grad=False)):
        checker.expect("one", came, 1, hint="")
    checker.expect("infinity", float("inf"), float("inf"), hint="")
    checker.expect("empty", [], [], hint="")
    assert capsys.readouterr().out == "✓ one\n" * 4 + "✓ infinity\n✓ empty\n"
