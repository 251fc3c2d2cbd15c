"""The ring of Gaussians against its formula."""

import math

import pytest
import torch

from companion.wasserstein.samples import ring_centres, ring_of_gaussians


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_centres_are_the_roots_of_unity_times_the_radius():
    centres = ring_centres(modes=7, radius=3.0)
    roots = [
        3.0 * complex(math.cos(t), math.sin(t)) for t in (2 * math.pi * k / 7 for k in range(7))
    ]
    expected = torch.tensor([[z.real, z.imag] for z in roots])
    torch.testing.assert_close(centres, expected)


def test_without_spread_every_point_is_a_centre():
    points = ring_of_gaussians(500, modes=5, radius=2.0, std=0.0, generator=seeded())
    distances = torch.cdist(points, ring_centres(modes=5, radius=2.0))
    torch.testing.assert_close(distances.amin(1), torch.zeros(500), atol=1e-6, rtol=0)
    assert distances.argmin(1).unique().numel() == 5


def test_modes_are_even_and_spread_is_std_along_both_axes():
    n, modes, std = 40_000, 8, 0.1
    points = ring_of_gaussians(n, std=std, generator=seeded())
    labels = torch.cdist(points, ring_centres()).argmin(1)
    counts = torch.bincount(labels, minlength=modes).double()
    # Pearson's statistic has mean 7 and standard deviation √14 for an even mixture.
    assert ((counts - n / modes) ** 2 / (n / modes)).sum() < 7 + 5 * math.sqrt(14)
    residual = points - ring_centres()[labels]
    torch.testing.assert_close(residual.T.cov(), std**2 * torch.eye(2), rtol=0.03, atol=3e-4)
    torch.testing.assert_close(residual.mean(0), torch.zeros(2), rtol=0, atol=0.002)


def test_same_seed_same_points_and_global_seed_untouched(device):
    before = torch.get_rng_state()
    one, same, other = (
        ring_of_gaussians(9, generator=torch.Generator(device).manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert one.device.type == device
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_empty_sample():
    assert ring_of_gaussians(0).shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n must be at least 0, got -1"),
        ({"n": 3, "std": -0.1}, "std must be a finite number of at least 0, got -0.1"),
        ({"n": 3, "modes": 0}, "modes must be at least 1, got 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ring_of_gaussians(**arguments)
