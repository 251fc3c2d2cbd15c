"""Every page of the built site, in Chromium: light on a phone, and dark on a desktop."""

import pytest

from tests.site.site_visits import PAGES, VIEWS, open_page

pytestmark = pytest.mark.browser

# axe-core rule -> why it may stay.
ALLOWED: dict[str, str] = {}

every_page = pytest.mark.parametrize("page", PAGES)
every_view = pytest.mark.parametrize(("scheme", "width"), VIEWS)


def test_the_site_is_built(site_url):
    assert "index.html" in PAGES


@every_view
@every_page
def test_nothing_fails_and_nothing_comes_from_another_host(visited, page, scheme, width):
    seen = visited(page, scheme, width)
    assert not seen.errors
    assert not seen.foreign


@every_view
@every_page
def test_mathematics_is_typeset(visited, page, scheme, width):
    seen = visited(page, scheme, width)
    assert not seen.raw_tex
    assert seen.look["unset"] == 0
    assert not seen.look["bad_tex"]


@every_view
@every_page
def test_the_scheme_is_followed_and_the_page_fits_its_width(visited, page, scheme, width):
    seen = visited(page, scheme, width)
    assert seen.look["theme"] == scheme
    assert seen.look["overflow"] <= 0


@every_view
@every_page
def test_pictures_are_there_and_described(visited, page, scheme, width):
    seen = visited(page, scheme, width)
    assert not seen.look["no_alt"]
    assert not seen.look["broken"]


@every_view
@every_page
def test_axe_finds_nothing_serious(visited, page, scheme, width):
    seen = visited(page, scheme, width)
    found = [
        f"{v['id']}: {v['help']}: {node['target']} {node.get('failureSummary', '')[:160]}"
        for v in seen.violations
        if v["id"] not in ALLOWED
        for node in v["nodes"][:3]
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", [p for p in PAGES if p[:2].isdigit()])
def test_a_chapter_has_mathematics(visited, page):
    assert visited(page, *VIEWS[0]).look["typeset"] > 10


def test_search_finds_a_word_of_a_chapter(view, site_url):
    page = open_page(view("light", 1280), f"{site_url}/search.html?q=Lipschitz")
    found = page.locator('#search-results li a[href^="02_wasserstein.html"]').first
    found.wait_for(timeout=60_000)
    assert found.is_visible()
    page.close()
