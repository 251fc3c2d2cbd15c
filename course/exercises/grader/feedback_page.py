"""The page that a student gets back: it loads nothing, runs no script, and shows mathematics."""

import re

from docutils.utils.math.latex2mathml import tex2mathml
from jinja2 import pass_context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

__all__ = ["OfflinePage"]

# The policy also holds for HTML that a student's cell or text displays.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">"
)
# What such HTML could do without a script: load from elsewhere, or leave for another page.
ACTS = re.compile(
    r"""<script\b.*?</script>|@font-face\s*{.*?}|<base\b[^>]*>|<meta\b[^>]*\brefresh\b[^>]*>""",
    re.IGNORECASE | re.DOTALL,
)
STYLE = "<style>pre { white-space: pre-wrap; } td, th { padding-right: 1em; }</style>"


class MathMLRenderer(IPythonRenderer):
    """Formulas as MathML, which browsers draw themselves; TeX where that fails."""

    def block_math(self, body):
        try:
            return tex2mathml(body, as_block=True)
        except Exception:  # of many kinds, for a slip in a formula
            return super().block_math(body)

    def inline_math(self, body):
        try:
            return tex2mathml(body)
        except Exception:
            return super().inline_math(body)


class OfflinePage(HTMLExporter):
    """nbgrader's feedback page without its scripts and fonts from elsewhere."""

    @pass_context
    def markdown2html(self, context, source):
        renderer = MathMLRenderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            exclude_anchor_links=True,
        )
        return MarkdownWithMath(renderer=renderer).render(source)

    def from_notebook_node(self, nb, resources=None, **kwargs):
        page, resources = super().from_notebook_node(nb, resources, **kwargs)
        page = ACTS.sub("", page)
        page = page.replace("<head>", f"<head>\n{POLICY}", 1)
        return page.replace("</head>", f"{STYLE}\n</head>", 1), resources
