"""What the drawings of chapter 03 say."""

import pytest
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.nearest import squared_distances
from companion.vqvae.study.cells import CellTraining
from companion.vqvae.study.figures import (
    draw_cells,
    draw_images,
    draw_rates,
    draw_relaxed,
    draw_repairs,
    draw_vqvae,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


pytestmark = pytest.mark.usefixtures("no_window")


def test_vqvae_names_its_parts_and_whom_each_gradient_reaches():
    (axes,) = draw_vqvae().axes
    words = {text.get_text() for text in axes.texts}
    assert words > {"image x", "encoder", "vector z", "decoder", "image x̂"}
    assert words > {"commitment", "codes follow z", "copied past the choice"}
    boxes = [part for part in axes.patches if isinstance(part, FancyBboxPatch)]
    arrows = [part for part in axes.patches if isinstance(part, FancyArrowPatch)]
    assert len(boxes) == 7
    # Five forward and the look-up; dashed, back: three parts of the error, commitment, codebook.
    assert sorted(arrow.get_linestyle() for arrow in arrows) == ["--"] * 5 + ["solid"] * 6


def test_cells_have_walls_and_unused_codes_are_crosses():
    """Between (0, 1) and (1, 0.5) lies y = 2x − 1/4: no mirror image of it does."""
    codes = torch.tensor([[0.0, 1.0], [1.0, 0.5], [9.0, 9.0]])
    figure = draw_cells({"a": codes, "b": codes[:1]}, codes[:2], labels=("red", "blue"), zoom=0.2)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("a", "b")
    assert (first.get_xlabel(), first.get_ylabel(), second.get_xlabel()) == ("red", "blue", "red")
    (corner,) = first.child_axes
    for axes, low, high, side in ((first, -0.15, 1.05, 220), (corner, -0.2, 0.2, 100)):
        points, used, unused = (part.get_offsets().tolist() for part in axes.collections)
        assert points == used == codes[:2].tolist()
        assert unused == codes[2:].tolist()
        (image,) = axes.images
        assert (image.origin, image.get_extent()) == ("lower", [low, high, low, high])
        assert (*axes.get_xlim(), *axes.get_ylim()) == (low, high, low, high)
        rows, columns = image.get_array()[..., 3].nonzero()
        x, y = ((cells + 0.5) / side * (high - low) + low for cells in (columns, rows))
        assert abs(y - (2 * x - 0.25)).max() < 0.03
        assert len(x) >= side / 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["used code", "unused code"]
    (frame,) = first.patches  # what the corner enlarges
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (-0.2, -0.2, 0.4, 0.4)
    assert not second.images[0].get_array().any()


def test_images_stand_in_a_row_for_each_name():
    grey, colour = torch.full((3, 1, 4, 6), 0.25), torch.full((2, 3, 4, 6), 2.0)
    colour[:, 0] = -1
    figure = draw_images({"x": grey, "x̂": colour.requires_grad_()}, titles=("a", "b"))
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 1, 1, 0]
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["x", "x̂"]
    assert [axes.get_title() for axes in figure.axes[:4]] == ["a", "b", "", ""]
    assert figure.axes[0].images[0].get_array().shape == (4, 6)
    assert figure.axes[3].images[0].get_array()[0, 0].tolist() == [0, 1, 1]


def test_relaxed_has_a_line_for_each_name_and_the_edges():
    z = torch.linspace(-1, 1, 5)
    slopes = {"true": -z, "straight": 3 * z}
    left, right = draw_relaxed(z, z.abs(), {"σ = 1": 2 * z}, slopes, edges=[0.25, 0.5]).axes
    words = [[text.get_text() for text in axes.get_legend().texts] for axes in (left, right)]
    assert words == [["after the choice", "σ = 1"], [*slopes]]
    lines = [axes.lines[1].get_ydata().tolist() for axes in (left, right)]
    assert lines == [(2 * z).tolist(), (3 * z).tolist()]
    assert [line.get_xdata()[0] for line in left.lines[-2:]] == [0.25, 0.5]
    assert [axes.get_ylabel() for axes in (left, right)] == ["loss", "slope of the loss"]


def test_repairs_have_a_row_for_each_plan_and_a_dot_for_each_run():
    left, right = draw_repairs({"plain": [(0.2, 3.0), (0.4, 2.0)], "revival": [(1.0, 1.0)]}).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["plain", "revival"]
    dots = [line.get_xydata().tolist() for line in left.lines if line.get_marker() == "o"]
    assert dots == [[[0.2, 0], [0.4, 0]], [[1.0, 1]]]
    assert right.lines[0].get_xdata().tolist() == [2000, 3000]
    assert "× 1000" in right.get_xlabel()
    assert left.yaxis_inverted()  # the first plan stands above


def test_rates_have_a_curve_for_each_name_and_a_tick_for_each_rate():
    series = {"K": [(8.0, 0.4), (16.0, 0.2)], "alone": [(9.0, 0.1)]}
    (axes,) = draw_rates(series).axes
    assert [line.get_label() for line in axes.lines] == list(series)
    assert [list(map(tuple, line.get_xydata())) for line in axes.lines] == list(series.values())
    assert [line.get_linestyle() for line in axes.lines] == ["-", "None"]
    assert list(axes.get_xticks()) == [8, 9, 16]
    assert (axes.get_xlim()[0], axes.get_ylim()[0]) == (0, 0)
    dotted = draw_rates(series, levels={"shrunk": 0.3}).axes[0].lines[-1]
    assert (dotted.get_label(), list(dotted.get_ydata())) == ("shrunk", [0.3, 0.3])


def test_cell_training_keeps_what_each_codebook_was_after_those_steps():
    points = torch.rand(30, 2, generator=seeded(0))

    def start():
        of = {"slow": 0.9, "fast": 0.5}.items()
        return {n: EMAVectorQuantizer(4, 2, decay=d, generator=seeded(1)).eval() for n, d in of}

    quantizers, alone, rng = start(), start(), seeded(2)
    of = {"labels": ("a", "b"), "batch_size": 8, "generator": seeded(2)}
    training = CellTraining(quantizers, points, [0, 2, 3], **of)
    assert training.values == [0, 2, 3]
    for step in range(4):
        for name, quantizer in alone.items():
            if step in training.values:
                assert torch.equal(training.codes(step)[name], quantizer.codebook)
        if step < 3:
            batch = points[torch.randint(30, (8,), generator=rng)]
            for quantizer in alone.values():
                quantizer.train()(batch)
    assert torch.equal(quantizers["fast"].codebook, alone["fast"].codebook)  # no step more

    distance_NK = squared_distances(points, alone["fast"].codebook)
    counts = distance_NK.argmin(1).bincount(minlength=4)
    share, even, error = training.use(3)["fast"]
    assert share == (counts > 0).double().mean()
    assert even == pytest.approx(torch.special.entr(counts.double() / 30).sum().exp().item())
    assert error == pytest.approx(distance_NK.amin(1).mean().item() / 2, rel=1e-5)
    used = (counts > 0).sum().item()
    assert training.draw(3).axes[1].get_title() == f"fast: {used} of 4 codes in use"
    assert f"; fast uses {used / 4:.0%} of its codes, mean squared error" in training.describe(3)
    assert training.describe(3).startswith("After 3 batches: slow uses ")
