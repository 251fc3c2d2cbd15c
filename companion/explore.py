"""Figures drawn once and stepped through without a kernel.

The browser holds every frame and the link between slider and frames, so the same cell answers in
JupyterLab, in the published page and after the kernel has gone.
"""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

try:
    import ipywidgets as widgets
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure
    from PIL import Image
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"companion.explore needs the package {error.name!r}; to install it: "
        "make lab (or, with pip: pip install 'companion[course]')",
        name=error.name,
    ) from error

__all__ = ["Frames", "frames"]

MAX_BYTES = 400_000  # all frames of one explorable, as they stand in the notebook
_DPI = 130  # sharp enough on a phone, small enough for thirty frames
_COLOURS = 256  # one byte a pixel: half the file, and a colour map still looks smooth

# A white card of its own: the figure's black axes stay readable on a dark page.
_CARD = (
    "margin:0;padding:8px;box-sizing:border-box;max-width:{width}px;"
    "background:#fff;color:#1a1a1a;border:1px solid #d0d0d0;border-radius:8px"
)
_FRAME = (
    '<figure class="companion-frame" style="{card}">'
    '<figcaption style="text-align:center;line-height:1.6">{caption}</figcaption>'
    '<img alt="{alt}" src="data:image/png;base64,{png}" style="width:100%;height:auto">'
    "</figure>"
)


class Frames(widgets.VBox):
    """What ``frames`` returns: a box with a short, stable ``repr`` in place of its pixels."""

    summary = ""

    def __repr__(self) -> str:
        return f"Frames({self.summary})"


def frames(
    values: Sequence[Any],
    draw: Callable[[Any], Figure],
    *,
    label: str,
    describe: Callable[[Any], str],
    play: bool = False,
    show: Callable[[Any], str] = str,
) -> Frames:
    """One drawn figure per value, with a slider that picks the frame.

    The arrow keys, Page Up/Down, Home and End move the slider once it has the focus. Above the
    figure stands ``label = value``; below the pixels, for a screen reader, ``describe(value)``.

    Args:
        values: What to step through, at least two.
        draw: Value → matplotlib figure; it is closed after it is drawn.
        label: Name of the quantity, shown beside the slider.
        describe: Value → what the picture shows, in words (the image's alternative text).
        play: Add a button that runs through the frames.
        show: Value → how it is written above the figure.

    Returns:
        A box for the last line of a cell.

    Raises:
        ValueError: If there are fewer than two values, a description is empty, or the frames
            together pass 400 kB.
        TypeError: If ``draw`` does not return a figure.

    Example:
        >>> def draw(slope):
        ...     figure, axes = plt.subplots(figsize=(3, 2))
        ...     axes.plot([0, 1], [0, slope])
        ...     return figure
        >>> frames([1, 2, 3], draw, label="slope", describe=lambda s: f"A line of slope {s}.")
        Frames(slope = 1, 2, 3)
    """
    texts = [show(value) for value in values]
    if len(texts) < 2:
        raise ValueError(f"expected at least two values to step through, got {len(texts)}")
    pages = [
        _page(draw, value, caption=f"{label} = {text}", alt=describe(value))
        for value, text in zip(values, texts, strict=True)
    ]
    _check_size(pages)
    layout, style = widgets.Layout(width="100%"), widgets.HTML().style
    stack = widgets.Stack(
        [widgets.HTML(page, layout=layout, style=style) for page in pages],
        selected_index=0,
        layout=layout,
    )
    box = Frames([_controls(stack, label, texts, play=play), stack], layout=layout)
    box.summary = f"{label} = {', '.join(texts)}"
    return box.add_class("companion-frames")


def _controls(
    stack: widgets.Stack, label: str, texts: Sequence[str], *, play: bool
) -> widgets.HBox:
    slider = widgets.SelectionSlider(
        # Two values may be written alike; the index tells them apart.
        options=[(text, i) for i, text in enumerate(texts)],
        description=label,
        readout=False,  # the caption shows the value; a readout would be one more Tab stop
        style={"description_width": "initial"},
        layout={"flex": "1 1 12em", "max_width": "32em"},
    )
    widgets.jslink((slider, "index"), (stack, "selected_index"))
    parts: list[widgets.Widget] = [slider]
    if play:
        button = widgets.Play(min=0, max=len(texts) - 1, interval=700, show_repeat=False)
        widgets.jslink((button, "value"), (slider, "index"))
        parts.insert(0, button)
    return widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center"})


def _page(draw: Callable[[Any], Figure], value: Any, *, caption: str, alt: str) -> str:
    if not alt.strip():
        raise ValueError(f"expected describe to return some words for {caption}, got {alt!r}")
    figure = draw(value)
    if not isinstance(figure, Figure):
        raise TypeError(f"expected draw to return a matplotlib Figure, got {type(figure)}")
    try:
        png = base64.b64encode(_png(figure)).decode("ascii")
        width = round(figure.get_figwidth() * 96) + 18
    finally:
        plt.close(figure)
    card = _CARD.format(width=width)
    return _FRAME.format(card=card, caption=escape(caption), alt=escape(alt), png=png)


def _png(figure: Figure) -> bytes:
    """The figure as a palette PNG; the same figure gives the same bytes."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=_DPI, facecolor="white")
    image = Image.open(raw).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def _check_size(pages: Sequence[str]) -> None:
    total = sum(len(page.encode()) for page in pages)
    if total > MAX_BYTES:
        raise ValueError(
            f"expected at most {MAX_BYTES // 1000} kB for all frames, got {total // 1000} kB in "
            f"{len(pages)} frames: draw fewer values or a smaller figure"
        )
