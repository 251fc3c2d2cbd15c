"""The built site, served on this machine, and one Chromium for all browser tests."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator

import pytest
import vendor

from tests.site.site_visits import SITE, Visit, visit


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for many files

    def log_message(self, *args: object) -> None:
        """Say nothing: pytest reports what matters."""


@pytest.fixture(scope="session")
def site_url() -> Iterator[str]:
    """The address of the built site, on a free port of this machine."""
    if not (SITE / "index.html").is_file():
        pytest.fail("the site is not built: run `make book` first", pytrace=False)
    handler = functools.partial(_QuietHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """One headless Chromium; the tests are skipped where there is none."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = _chromium_path(playwright.chromium.executable_path)
        if path is None:
            pytest.skip("no Chromium found: install one, or name it in the variable CHROMIUM")
        only_here = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", only_here])
        yield browser
        browser.close()


def _chromium_path(bundled: str) -> str | None:
    named = os.environ.get("CHROMIUM")
    if named:
        if not shutil.which(named):
            pytest.fail(f"expected a browser in CHROMIUM, got {named}", pytrace=False)
        return named
    names = ["chromium", "chromium-browser", "google-chrome", bundled]
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def view(chromium) -> Callable:
    """A browser window of one colour scheme and width; it is kept, and so is its cache."""

    @functools.cache
    def window(scheme: str, width: int):
        size = {"width": width, "height": 900}
        context = chromium.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)
        context.set_default_timeout(120_000)  # milliseconds: a machine may be busy
        return context

    return window


@pytest.fixture(scope="session")
def visited(view, site_url: str) -> Callable[[str, str, int], Visit]:
    """What a visit to one page in one scheme at one width showed; each page is opened once."""
    axe = (vendor.fetch("axe-core") / "axe.min.js").read_text(encoding="utf-8")

    @functools.cache
    def record(page: str, scheme: str, width: int) -> Visit:
        picture = f"{page.removesuffix('.html')}_{scheme}_{width}"
        return visit(view(scheme, width), f"{site_url}/{page}", axe=axe, picture=picture)

    return record
