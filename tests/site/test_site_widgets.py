"""Explorables on the published page: each is there once, and answers to keys and to clicks."""

import pytest

from tests.site.site_visits import PAGES, SITE, VIEWS, open_page

pytestmark = pytest.mark.browser

VIEW = "application/vnd.jupyter.widget-view+json"
WITH_WIDGETS = [p for p in PAGES if VIEW in (SITE / p).read_text(encoding="utf-8")]


def shown_frame(explorable) -> str:
    """The description of the one frame that is to be seen."""
    visible = explorable.locator("img:visible")
    assert visible.count() == 1
    return visible.get_attribute("alt")


def test_the_chapters_have_explorables():
    chapters = [page for page in PAGES if page[:2].isdigit()]
    assert set(chapters) <= set(WITH_WIDGETS)


@pytest.mark.parametrize("page", WITH_WIDGETS)
def test_each_is_shown_once(visited, page):
    look = visited(page, *VIEWS[0]).look
    assert look["widgets_shown"] == look["widgets_asked"] > 0
    scripts = (SITE / page).read_text(encoding="utf-8")
    assert scripts.count("embed-amd.js") == scripts.count("require.js") == 1


@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_keys_clicks_and_play_move_the_frame(view, site_url, name):
    """On a phone, where the slider is shortest."""
    page = open_page(view("light", 390), f"{site_url}/{name}")
    for explorable in page.locator(".cell_output .widget-subarea").all():
        keys_move_the_frame(explorable)
        play_moves_the_frame(explorable)
        a_click_moves_the_frame(explorable)
    page.close()


def keys_move_the_frame(explorable) -> None:
    first = shown_frame(explorable)
    handle = explorable.locator("[role=slider]")
    handle.focus()
    handle.press("ArrowRight")
    assert shown_frame(explorable) != first
    handle.press("ArrowLeft")
    assert shown_frame(explorable) == first


def play_moves_the_frame(explorable) -> None:
    for player in explorable.locator(".widget-play").all():
        first = shown_frame(explorable)
        picture = explorable.locator("img:visible").element_handle()
        player.get_by_role("button", name="Play or pause").click()
        picture.wait_for_element_state("hidden")
        player.get_by_role("button", name="Back to the start").click()
        assert shown_frame(explorable) == first


def a_click_moves_the_frame(explorable) -> None:
    first = shown_frame(explorable)
    track = explorable.locator(".noUi-target")
    track.scroll_into_view_if_needed()
    box = track.bounding_box()
    assert box["width"] > 80, "the slider is too short for a finger"
    track.click(position={"x": box["width"] - 2, "y": box["height"] / 2}, force=True)
    assert shown_frame(explorable) != first
