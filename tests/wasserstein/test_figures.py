"""What the drawings of chapter 02 say."""

import matplotlib as mpl
import pytest
import torch

from companion.wasserstein.figures import (
    draw_critics,
    draw_image_rows,
    draw_plan,
    draw_point_clouds,
    draw_potential,
    draw_tracking,
    farkas_panels,
)

pytestmark = pytest.mark.usefixtures("no_window")


def test_farkas_draws_a_certificate_only_outside_the_cone():
    columns = torch.tensor([[2.0, 1.0], [0.5, 1.5]])
    inside, outside = torch.tensor([1.5, 1.6]), torch.tensor([1.7, -0.6])
    left, right = farkas_panels(columns, inside=inside, outside=outside).axes
    assert [t.get_text() for t in left.texts if t.get_text()] == ["$A_1$", "$A_2$", "$h$"]
    assert {"$k$", r"$\lambda$"} <= {t.get_text() for t in right.texts}
    nearest = right.lines[1].get_xydata()[0]  # h · A₁ = 2.8 of |A₁|² = 5
    assert nearest == pytest.approx([2 * 0.56, 0.56])


def test_plan_has_both_piles_and_says_what_the_dashed_line_is():
    mu, nu = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.25, 0.75])
    plan = torch.tensor([[0.0, 0.25, 0.25], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    figure = draw_plan(mu, nu, plan, title="two piles")
    (main,) = [axes for axes in figure.axes if axes.images]
    assert (main.images[0].get_array() == plan.sqrt().numpy()).all()
    assert main.lines[0].get_xydata().tolist() == [[0, 0], [1, 1], [2, 2]]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["same place: nothing moves"]


def test_potential_marks_rise_and_fall():
    places, pile = torch.arange(4.0), torch.tensor([0.25, 0.25, 0.25, 0.25])
    _, below = draw_potential(
        places, pile, pile, torch.tensor([0.0, 1.0, 1.0, 0.0]), title="f"
    ).axes
    rise, flat, fall = below.collections[0].get_colors().tolist()
    by_name = {line.get_label(): mpl.colors.to_rgba(line.get_color()) for line in below.lines}
    assert by_name["rises: sand moves left"] == pytest.approx(rise)
    assert by_name["falls: sand moves right"] == pytest.approx(fall)
    assert by_name["flat"] == pytest.approx(flat)


def test_critics_share_one_scale_after_division_by_their_slopes():
    real, fake = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.0], [-0.5, 0.0]])
    critics = {"steep": lambda x: 300 * x[:, 0] + 7, "flat": lambda x: 0.01 * x[:, 0]}
    figure = draw_critics(critics, {"steep": 300.0, "flat": 0.01}, real, fake)
    steep, flat, bar = figure.axes
    assert [axes.get_title() for axes in (steep, flat)] == ["steep", "flat"]
    assert bar.get_ylabel() == "score / slope"
    levels = [axes.collections[0].levels for axes in (steep, flat)]
    assert levels[0] == pytest.approx(levels[1])
    assert (levels[0][0], levels[0][-1]) == pytest.approx((-2.5, 2.5))  # 1.25 · 2, mean 0 on fake
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["ring", "cloud"]


def test_tracking_has_its_unit_and_the_measured_steps():
    (axes,) = draw_tracking([40, 80], [3.0, 2.0], [1.0, 0.5], floor=0.25, unit="m").axes
    assert axes.get_ylabel() == "distance (m)"
    assert axes.get_xticks().tolist() == [40, 80]
    exact, estimate, floor = axes.lines
    assert exact.get_ydata().tolist() == [3.0, 2.0]
    assert estimate.get_ydata().tolist() == [1.0, 0.5]
    assert list(floor.get_ydata()) == [0.25, 0.25]


def test_no_point_of_a_cloud_is_cut_off():
    clouds = {"a": torch.tensor([[7.0, -1.0], [0.0, 0.0]]), "b": torch.zeros(3, 2)}
    first, second = draw_point_clouds(clouds, torch.ones(4, 2)).axes
    for axes in (first, second):
        assert axes.get_xlim() == pytest.approx((-7.35, 7.35))
        assert axes.get_ylim() == pytest.approx((-7.35, 7.35))
    assert second.get_title() == "b"


def test_image_rows_have_their_titles():
    figure = draw_image_rows({"real": torch.zeros(3, 1, 5, 7), "made": torch.ones(2, 1, 5, 7)})
    assert len(figure.axes) == 6
    assert [axes.get_title(loc="left") for axes in figure.axes[::3]] == ["real", "made"]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 1, 1, 0]
