"""The picture of pages after a fork says what its numbers say."""

import pytest

from companion.processes.study.memory_figure import draw_pages, draw_process, page_counts

pytestmark = pytest.mark.usefixtures("no_window")


@pytest.mark.parametrize(
    ("written", "counts"), [((), (3, 1.5)), ((2,), (4, 2.0)), ((0, 1, 2, 1), (6, 3.0))]
)
def test_counts_by_hand(written, counts):
    assert page_counts(3, written) == counts
    before, after = draw_pages(3, written).axes
    memory = [
        [t.get_text() for t in axes.texts if "page" in t.get_text()] for axes in (before, after)
    ]
    assert memory[0] == ["page 0", "page 1", "page 2"]
    assert memory[1] == [*memory[0], *(f"page {number}" for number in sorted(set(written)))]


def test_each_entry_leads_to_its_page():
    """The child's entries lead to its own copies; the parent's stay."""
    _, axes = draw_pages(3, [1]).axes
    arrows = [
        (t.xyann[1], t.xy[1], t.xyann[0] < t.xy[0])
        for t in axes.texts
        if t.get_text() == "" and hasattr(t, "xyann")
    ]
    assert [end - start for start, end, parents in arrows if parents] == [0, 0, 0]
    assert [round(end - start) for start, end, parents in arrows if not parents] == [0, -2, 0]


def test_a_thread_has_a_stack_and_a_position():
    (axes,) = draw_process(3).axes
    texts = [t.get_text() for t in axes.texts]
    assert texts.count("stack") == texts.count("position") == 3


@pytest.mark.parametrize("pages_written", [(0, ()), (3, [3]), (3, [-1])])
def test_pages_that_are_not_there(pages_written):
    with pytest.raises(ValueError, match="must be"):
        page_counts(*pages_written)
