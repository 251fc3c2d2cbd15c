"""The ring and the grid of Gaussians against their formulas."""

import math

import pytest
import torch

from companion.gan.samples import gaussian_grid, gaussian_ring, grid_centres, ring_centres


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_centres_are_the_roots_of_unity_times_the_radius():
    centres = ring_centres(modes=7, radius=3.0)
    angles = [2 * math.pi * k / 7 for k in range(7)]
    expected = torch.tensor([[3 * math.cos(angle), 3 * math.sin(angle)] for angle in angles])
    torch.testing.assert_close(centres, expected)


@pytest.mark.parametrize(
    ("words", "ticks"), [({}, [-4, -2, 0, 2, 4]), ({"side": 2, "spacing": 3.0}, [-1.5, 1.5])]
)
def test_centres_of_the_grid_by_hand(words, ticks):
    expected = torch.tensor([[float(x), float(y)] for x in ticks for y in ticks])
    assert torch.equal(grid_centres(**words), expected)


@pytest.mark.parametrize(
    ("draw", "centres", "where"),
    [
        (gaussian_ring, ring_centres, {"modes": 5, "radius": 3.0}),
        (gaussian_grid, grid_centres, {"side": 3, "spacing": 1.5}),
    ],
)
def test_without_spread_every_point_is_a_centre(draw, centres, where):
    points, centres = draw(500, **where, std=0.0, generator=seeded()), centres(**where)
    distances = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(distances.amin(1), torch.zeros(500), atol=1e-6, rtol=0)
    assert distances.argmin(1).unique().numel() == len(centres)


@pytest.mark.parametrize(
    ("draw", "centres"), [(gaussian_ring, ring_centres()), (gaussian_grid, grid_centres())]
)
def test_modes_are_even_and_spread_is_std_along_both_axes(draw, centres):
    n, std, modes = 40_000, 0.1, len(centres)
    points = draw(n, std=std, generator=seeded())
    labels = torch.cdist(points, centres).argmin(1)
    counts = torch.bincount(labels, minlength=modes).double()
    # Pearson's statistic has mean K − 1 and variance 2(K − 1) for an even mixture.
    pearson = ((counts - n / modes) ** 2 / (n / modes)).sum()
    assert abs(pearson - (modes - 1)) < 5 * math.sqrt(2 * (modes - 1))
    residual = points - centres[labels]
    torch.testing.assert_close(residual.T.cov(), std**2 * torch.eye(2), rtol=0.03, atol=3e-4)
    torch.testing.assert_close(residual.mean(0), torch.zeros(2), rtol=0, atol=0.002)


@pytest.mark.parametrize("draw", [gaussian_ring, gaussian_grid])
def test_same_seed_same_points_and_global_seed_untouched(draw, device):
    assert draw(0).shape == (0, 2)
    before = torch.get_rng_state()
    rngs = (torch.Generator(device).manual_seed(s) for s in (1, 1, 2))
    one, same, other = (draw(9, generator=rng) for rng in rngs)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.device.type == device
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("draw", "arguments", "message"),
    [
        (gaussian_ring, {"n": -1}, "n must be at least 0, got -1"),
        (gaussian_ring, {"n": 3, "std": -0.1}, "std must be a finite number of at least 0, got -0"),
        (gaussian_grid, {"n": 3, "side": 0}, "side must be at least 1, got 0"),
    ],
)
def test_impossible_arguments_are_refused(draw, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(**arguments)
