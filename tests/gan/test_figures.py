"""What the drawings of chapter 01 say."""

import math

import pytest
import torch
from matplotlib.quiver import Quiver

from companion.gan.study.figures import (
    draw_class_grid,
    draw_curves,
    draw_field,
    draw_game,
    draw_games,
    draw_paths,
    draw_rings,
)
from companion.gan.study.line_game import LineGame
from companion.gan.study.ring_frames import RingTraining
from companion.gan.study.two_densities import TwoDensities

pytestmark = pytest.mark.usefixtures("no_window")


def test_game_names_both_networks_and_whose_step_reaches_whom():
    (axes,) = draw_game().axes
    words = " ".join(text.get_text() for text in axes.texts)
    for word in (
        "generator G",
        "discriminator D",
        "real x",
        "fake G(z)",
        "back through D and the fake, into G",
    ):
        assert word in words


def test_paths_start_at_their_dots():
    paths = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.zeros(2, 2)}
    first, second = draw_paths(paths).axes
    assert first.lines[0].get_xydata().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert first.lines[1].get_xydata().tolist() == [[1.0, 2.0]]
    assert second.get_title() == "b"


def test_curves_have_their_names_and_axis():
    (axes,) = draw_curves(
        [1, 2], {"a": [3, 4], "b": [5, 6]}, x_label="x", y_label="y", log=True
    ).axes
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert axes.get_yscale() == "log"


def test_rings_hide_panels_without_a_cloud():
    clouds = {str(i): torch.full((3, 2), float(i)) for i in range(4)}
    panels = draw_rings(clouds, torch.ones(5, 2), columns=3).axes
    assert [axes.get_title() for axes in panels if axes.get_visible()] == ["0", "1", "2", "3"]
    assert len(panels) == 6
    assert panels[1].collections[1].get_offsets().tolist() == [[1.0, 1.0]] * 3


def test_grid_has_a_row_for_each_name():
    first, second = torch.zeros(2, 1, 3, 4), torch.ones(1, 1, 3, 4)
    (axes,) = draw_class_grid({"3": first, "5": second}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3", "5"]
    assert axes.get_yticks().tolist() == [1, 5]  # the middles of three pixels, with one between
    sheet = axes.images[0].get_array()
    assert sheet.shape == (8, 10)
    assert (sheet == 0).sum() == 24
    assert (sheet[4:7, :4] == 1).all()
    assert (sheet == 1).sum() == 12


def test_two_densities_by_hand():
    densities = TwoDensities([0.0, 2.0, 8.0])
    # D* at the centre of q: 1 / (1 + exp(-log p/q)), and log p/q there is -s²/2.
    assert f"it is {1 / (1 + math.exp(2)):.3f}" in densities.describe(2.0)
    assert densities.divergence(0.0) == 0
    assert densities.divergence(8.0) == pytest.approx(math.log(2), abs=1e-4)
    left, right = densities.draw(2.0).axes
    assert right.lines[1].get_xydata().tolist() == [[2.0, densities.divergence(2.0)]]
    assert left.lines[0].get_ydata()[0] > 0.999


def test_ring_training_counts_what_it_shows():
    near, far = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.full((2, 2), 9.0)
    runs = {"plain": {0: far, 5: near[:1]}, "R1": {0: far, 5: near}}
    training = RingTraining(runs, near, centers=near, radius=0.1)
    assert training.values == [0, 5]
    assert training.covered(5) == {"plain": 1, "R1": 2}
    assert training.describe(5) == "After 5 steps, of 2 modes: plain covers 1; R1 covers 2."
    assert [axes.get_title() for axes in training.draw(5).axes] == ["plain: 1 of 2", "R1: 2 of 2"]
    with pytest.raises(ValueError, match="runs: expected looks after the same steps"):
        RingTraining({"a": {0: far}, "b": {1: far}}, near, centers=near, radius=0.1)


def test_field_sends_points_up_the_logit():
    cloud = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    figure = draw_field({"x": (lambda x: 3 * x[:, 0], cloud)}, cloud, radius=0.5)
    axes = figure.axes[0]
    (arrows,) = [part for part in axes.collections if isinstance(part, Quiver)]
    assert arrows.U.tolist() == [1, 1]
    assert arrows.V.tolist() == [0, 0]
    shades = axes.collections[0].get_array()
    assert shades[60, 60] == pytest.approx(0.5)  # x = 0
    assert shades[0, -1] > 0.99
    assert [circle.center for circle in axes.patches] == [(1.0, 0.0), (0.0, 2.0)]


def test_field_fills_rows_with_labels_at_the_edge():
    cloud = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    panels = {name: (lambda x: x[:, 0], cloud) for name in "abcdef"}
    *axes, _ = draw_field(panels, cloud, radius=0.5, columns=3).axes  # and the colour bar
    assert [panel.get_title() for panel in axes] == list("abcdef")
    assert [bool(panel.get_ylabel()) for panel in axes] == [True, False, False] * 2
    assert [bool(panel.get_xlabel()) for panel in axes] == [False] * 3 + [True] * 3


def test_games_are_thin_and_their_mean_is_thick():
    (axes,) = draw_games({"a": {0: [1, 2], 5: [3, 6]}}, y_label="heaps", top=8).axes
    *games, mean, best = axes.lines
    assert [game.get_ydata().tolist() for game in games] == [[1, 3], [2, 6]]
    assert mean.get_ydata().tolist() == [1.5, 4.5]
    assert best.get_ydata() == [8, 8]


def test_the_game_on_a_line_finds_the_data():
    game = LineGame([0, 400])
    fake, probability = game._looks[400]
    assert abs(fake.mean() - 2) < 0.4  # from about 0; the data's own spread is 0.5
    assert fake.std() < 1
    assert "data around 2" in game.describe(400)
    assert {text.get_text() for text in game.draw(0).axes[0].get_legend().texts} == {
        "data",
        "generated",
        "D",
    }
    assert len(probability) == 161
