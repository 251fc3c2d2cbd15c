"""The built site as files: links, anchors, titles, and the notebooks that it offers."""

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.site.site_visits import PAGES, SITE, open_page

pytestmark = pytest.mark.browser

COURSE = Path(__file__).resolve().parents[2] / "course"
CHAPTERS = [page for page in PAGES if page[:2].isdigit()]
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


class Page(HTMLParser):
    """The addresses, anchors and headings of one HTML file."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.anchors: set[str] = {"", "top"}
        self.h1 = 0
        self.title = ""
        self._in_title = False
        self.feed((SITE / name).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attributes}
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        self.h1 += tag == "h1" and "jb-print" not in str(values)
        self._in_title = tag == "title" and not self.title
        for key in ("href", "src"):
            if key in values:
                self.links.append((tag, key, values[key]))

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._in_title &= tag != "title"


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    return {name: Page(name) for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_lead_somewhere(pages, name):
    broken = []
    for _, _, address in pages[name].links:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        path = unquote(parts.path)
        target = (SITE / name).parent / path if path else SITE / name
        known = pages[target.name].anchors if target.name in pages else {""}
        if not target.exists() or unquote(parts.fragment) not in known:
            broken.append(address)
    assert not broken


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_another_host(pages, name):
    foreign = [
        address
        for tag, key, address in pages[name].links
        if (tag, key) in LOADED and (urlsplit(address).netloc or address.startswith("//"))
    ]
    assert not foreign


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_title_of_its_own(pages, name):
    titles = [page.title for page in pages.values()]
    assert pages[name].title.strip()
    assert titles.count(pages[name].title) == 1


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_notebook_is_offered(pages, name):
    notebook = Path(name).with_suffix(".ipynb").name
    offered = {link for tag, _, link in pages[name].links if tag == "a" and notebook in link}
    assert offered == {f"_sources/{notebook}"}
    given = (SITE / "_sources" / notebook).read_text(encoding="utf-8")
    assert json.loads(given) == json.loads((COURSE / notebook).read_text(encoding="utf-8"))


def test_the_download_button_gives_what_is_offered(view, site_url):
    """On one page, for the button is the theme's own."""
    page = open_page(view("light", 1280), f"{site_url}/{CHAPTERS[0]}")
    page.locator(".dropdown-download-buttons > button").click()
    with page.expect_download() as download:
        page.locator(".dropdown-download-buttons a[href$='.ipynb']").click()
    given = Path(download.value.path()).read_bytes()
    page.close()
    notebook = Path(CHAPTERS[0]).with_suffix(".ipynb").name
    assert download.value.suggested_filename == notebook
    assert given == (SITE / "_sources" / notebook).read_bytes()
