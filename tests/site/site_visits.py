"""Opening a page of the built site in a browser, and writing down everything that is judged."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PAGES", "SITE", "VIEWS", "Visit", "open_page", "visit"]

SITE = Path(__file__).resolve().parents[2] / "jupyter_book" / "_build" / "html"
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.glob("*.html"))
# A phone and a desktop, in CSS pixels. Contrast depends on the scheme and fit on the width, and no
# rule of the style sheets on both.
VIEWS = [("light", 390), ("dark", 1280)]

# Text that a reader sees with TeX in it: mathematics that MathJax has left alone.
RAW_TEX = re.compile(r"\\\(|\\\[|\\begin\{|\\frac|\\sum|\\mathbb|\$[^\s$][^$]*\$")

READY = """async () => {
  if (window.MathJax) await window.MathJax.startup.promise;
  const asked = document.querySelectorAll('script[type$="widget-view+json"]').length;
  const start = Date.now();
  const shown = () => document.querySelectorAll('.cell_output .widget-subarea > *').length;
  while (shown() < asked && Date.now() - start < 60000) await new Promise(r => setTimeout(r, 50));
  await document.fonts.ready;
}"""

LOOK = """() => {
  const article = document.querySelector('article') || document.body;
  const texts = [];
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const hidden = node.parentElement.closest('pre, code, script, style, mjx-container');
    if (!hidden) texts.push(node.data);
  }
  const all = selector => [...article.querySelectorAll(selector)];
  const pictures = all('img');
  const source = picture => picture.src.slice(0, 80);
  const edge = document.documentElement.clientWidth;
  return {
    texts,
    theme: document.documentElement.dataset.theme,
    unset: all('.math').filter(e => !e.querySelector('mjx-container')).length,
    typeset: all('mjx-container').length,
    bad_tex: all('mjx-merror, [data-mjx-error]').map(e => e.textContent),
    no_alt: pictures.filter(e => !(e.getAttribute('alt') || '').trim()).map(source),
    broken: pictures.filter(e => e.offsetParent && e.complete && !e.naturalWidth).map(source),
    overflow: Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - edge,
    widgets_asked: all('script[type$="widget-view+json"]').length,
    widgets_shown: all('.widget-subarea > *').length,
  };
}"""


# The glyphs of a chapter's formulas are 10,000 nodes in the colour of the text around them; axe
# would need longer for them than for all the rest.
JUDGE = """() => {
  for (const formula of document.querySelectorAll('mjx-container')) formula.replaceChildren();
  return axe.run({exclude: ['mjx-container']}, {resultTypes: ['violations']});
}"""


@dataclass
class Visit:
    """What one page showed, in one colour scheme and at one width."""

    url: str
    look: dict = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    violations: list[dict] = field(default_factory=list)

    @property
    def raw_tex(self) -> list[str]:
        """Pieces of text in which TeX is still to be seen."""
        return [text.strip()[:80] for text in self.look["texts"] if RAW_TEX.search(text)]


def open_page(context, url: str, seen: Visit | None = None):
    """A page once all of it is drawn; what goes wrong on it is written into ``seen``."""
    seen = seen or Visit(url)
    home = "/".join(url.split("/")[:3]) + "/"

    def note_request(request) -> None:
        if not request.url.startswith((home, "data:", "blob:")):
            seen.foreign.append(request.url)

    page = context.new_page()
    page.on("request", note_request)
    page.on("websocket", lambda socket: seen.foreign.append(socket.url))
    page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on(
        "response",
        lambda r: seen.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None,
    )
    page.goto(url)
    page.evaluate(READY)
    return page


def visit(context, url: str, *, axe: str, picture: str) -> Visit:
    """Open a page, look at it, let axe-core judge it, and keep a picture if one is wanted."""
    seen = Visit(url)
    page = open_page(context, url, seen)
    seen.look = page.evaluate(LOOK)
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{picture}.png", full_page=True)
    page.evaluate(axe)
    result = page.evaluate(JUDGE)
    seen.violations = [v for v in result["violations"] if v["impact"] in ("serious", "critical")]
    page.close()
    return seen
