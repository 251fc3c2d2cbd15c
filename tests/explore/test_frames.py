"""What the explorable holds, without a browser; the site's tests move it in a real one."""

import base64
import io
import re
from html import unescape

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from ipywidgets.embed import dependency_state
from PIL import Image

from companion.explore import MAX_BYTES, frames


def draw(slope: float):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1], [0, slope])
    return figure


def describe(slope: float) -> str:
    return f'A line with "slope" {slope} < 10'


@pytest.fixture
def box():
    return frames([0.5, 1.0, 2.0], draw, label="slope", describe=describe, play=True)


def parts(box) -> tuple[widgets.Play, widgets.SelectionSlider, widgets.Stack]:
    controls, stack = box.children
    return *controls.children, stack


def pictures(box) -> list[Image.Image]:
    pages = [page.value for page in box.children[1].children]
    encoded = [re.search(r"base64,([^\"]+)\"", page)[1] for page in pages]
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in encoded]


def test_one_frame_per_value_with_caption_and_alternative_text(box):
    pages = [page.value for page in parts(box)[2].children]
    assert len(pages) == 3
    for value, page in zip([0.5, 1.0, 2.0], pages, strict=True):
        assert unescape(re.search(r'alt="([^"]*)"', page)[1]) == describe(value)
        assert f"slope = {value}</figcaption>" in page


def test_each_frame_is_its_own_picture(box):
    arrays = [np.array(picture.convert("RGB")) for picture in pictures(box)]
    assert arrays[0].shape == (260, 390, 3)
    assert not np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[1], arrays[2])
    assert (arrays[0][0, 0] == 255).all()


def test_picture_is_the_figure_that_was_drawn():
    """A red figure comes out red: the palette changes no colour that it can hold."""

    def red(_):
        figure = plt.figure(figsize=(2, 1))
        figure.patch.set_facecolor("white")
        figure.add_axes([0, 0, 1, 1]).set_facecolor("#d62728")
        figure.axes[0].axis([0, 1, 0, 1])
        return figure

    middle = pictures(frames([1, 2], red, label="n", describe=str))[0].convert("RGB")
    assert middle.getpixel((130, 65)) == (0xD6, 0x27, 0x28)


def test_slider_and_play_are_linked_in_the_browser(box):
    saved = dependency_state([box])  # what the notebook keeps when there is no kernel
    links = [
        (entry["state"]["source"], entry["state"]["target"])
        for entry in saved.values()
        if entry["model_name"] == "LinkModel"
    ]
    at = {name: f"IPY_MODEL_{w.model_id}" for name, w in zip("psf", parts(box), strict=True)}
    assert sorted(links) == sorted(
        [
            ([at["s"], "index"], [at["f"], "selected_index"]),
            ([at["p"], "value"], [at["s"], "index"]),
        ]
    )


def test_slider_is_labelled_and_starts_at_the_first_frame(box):
    play, slider, stack = parts(box)
    assert slider.description == "slope"
    assert [label for label, _ in slider.options] == ["0.5", "1.0", "2.0"]
    assert slider.index == stack.selected_index == play.value == 0
    assert play.max == len(stack.children) - 1


def test_values_written_alike_keep_a_frame_each():
    box = frames([0.101, 0.102], draw, label="x", describe=str, show=lambda x: f"{x:.1f}")
    (slider,) = box.children[0].children
    slider.index = 1
    assert slider.value == 1
    assert len(box.children[1].children) == 2


def test_without_play_there_is_only_the_slider():
    box = frames([1, 2], draw, label="slope", describe=describe)
    assert [type(part) for part in box.children[0].children] == [widgets.SelectionSlider]


def test_text_output_is_short_and_the_same_each_time(box):
    again = frames([0.5, 1.0, 2.0], draw, label="slope", describe=describe, play=True)
    plain = box._repr_mimebundle_()["text/plain"]
    assert plain == again._repr_mimebundle_()["text/plain"] == "Frames(slope = 0.5, 1.0, 2.0)"


def test_the_same_figures_give_the_same_bytes(box):
    again = frames([0.5, 1.0, 2.0], draw, label="slope", describe=describe)
    assert [p.value for p in again.children[1].children] == [
        p.value for p in box.children[1].children
    ]


def test_figures_are_closed_even_when_a_description_fails(box):
    assert plt.get_fignums() == []
    with pytest.raises(ZeroDivisionError):
        frames([1, 2], draw, label="x", describe=lambda x: 1 / 0)
    assert plt.get_fignums() == []


def test_too_many_bytes_are_refused():
    noise = np.random.default_rng(0).random((200, 200))

    def busy(_):
        figure, axes = plt.subplots(figsize=(6, 6))
        axes.imshow(noise)
        return figure

    with pytest.raises(ValueError, match=r"at most 400 kB for all frames, got \d+ kB in 9 frames"):
        frames(range(9), busy, label="n", describe=str)


def test_sixteen_usual_frames_stay_below_the_limit():
    def usual(shift):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        x = np.linspace(-4, 4, 200)
        left.fill_between(x, np.exp(-((x - shift) ** 2)), alpha=0.5)
        right.imshow(np.exp(-((x[:, None] - x - shift) ** 2)))
        return figure

    box = frames(np.linspace(-2, 2, 16), usual, label="shift", describe=str)
    total = sum(len(page.value.encode()) for page in box.children[1].children)
    assert 50_000 < total <= MAX_BYTES


def test_one_value_is_refused():
    with pytest.raises(ValueError, match="at least two values to step through, got 1"):
        frames([1], draw, label="x", describe=str)


def test_empty_description_is_refused():
    with pytest.raises(
        ValueError, match="expected describe to return some words for x = 1, got ' "
    ):
        frames([1, 2], draw, label="x", describe=lambda x: "  ")
    assert plt.get_fignums() == []


def test_another_return_type_is_refused():
    with pytest.raises(TypeError, match="draw to return a matplotlib Figure, got <class 'int'>"):
        frames([1, 2], lambda x: 3, label="x", describe=str)


def test_words_of_the_caller_cannot_break_the_page():
    box = frames([1, 2], draw, label="<b>", describe=lambda x: '"><script>alert(1)</script>')
    page = box.children[1].children[0].value
    assert "<script>" not in page
    assert "<b>" not in page
