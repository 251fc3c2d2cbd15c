"""Gradients of a noisy choice against the normal distribution; edges found by walking."""

import math

import pytest
import torch
from torch.testing import assert_close

from companion.vqvae.model import VQVAE
from companion.vqvae.quantizer import VectorQuantizer
from companion.vqvae.study.relaxed import edge_distance, loss_of_each_code, relaxed_gradient

CODES = torch.tensor([[2.0], [-1.0], [0.2]], dtype=torch.float64)  # edges at -0.4 and 1.1
EDGES = (-0.4, 1.1)
LOSSES = torch.tensor([5.0, 1.0, 3.0], dtype=torch.float64)  # so 1, 3, 5 from left to right


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mean_loss(z, sigma):
    """1 + 2 P(above the first edge) + 2 P(above the second)."""
    return 1 + sum(1 + math.erf((z - edge) / sigma / math.sqrt(2)) for edge in EDGES)


@pytest.mark.parametrize(("z", "sigma"), [(0.0, 0.3), (1.0, 0.8), (-2.0, 0.9)])
def test_against_the_normal_distribution(z, sigma):
    """Pairs ε, −ε are independent: one's mean is at most 2|ε|/σ, its deviation at most 2/σ.

    A second coordinate, in which the codes do not differ, has no slope.
    """
    draws, codes = 40_000, torch.nn.functional.pad(CODES, (0, 1))
    where = torch.tensor([z, 0.7]).double()
    of = {"sigma": sigma, "draws": draws, "generator": seeded()}
    found = relaxed_gradient(LOSSES, where, codes, **of)
    density = sum(
        2 * math.exp(-(((z - edge) / sigma) ** 2) / 2) / sigma / math.sqrt(2 * math.pi)
        for edge in EDGES
    )
    step = 1e-5
    slope = (mean_loss(z + step, sigma) - mean_loss(z - step, sigma)) / (2 * step)
    assert slope == pytest.approx(density, rel=1e-6)
    assert found.tolist() == pytest.approx([slope, 0], abs=5 * 2 / sigma / math.sqrt(draws))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "sigma must be a finite number more than 0, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"losses": LOSSES[:2]}, r"expected shapes \(K,\) and .* got \(2,\) and \(1,\)"),
        ({"z": CODES}, r"expected shapes \(K,\) and \(D,\) .* got \(3,\) and \(3, 1\)"),
    ],
)
def test_what_relaxed_gradient_refuses(arguments, message):
    right = {"losses": LOSSES, "z": CODES[0], "codebook": CODES, "sigma": 1.0, "draws": 3}
    with pytest.raises(ValueError, match=message):
        relaxed_gradient(**right | arguments)


def test_edges_in_the_plane_by_hand():
    """Own code (0, 0); edges x = 2, at 1.5, and 3x + 4y = 12.5, at 1.1 from (0.5, 1.375)."""
    codes = torch.tensor([[0.0, 0.0], [4.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    z = torch.tensor([[0.5, 0.0], [0.5, 1.375], [0.5, -9.0], [2.0, 0.0]])
    assert_close(edge_distance(z, codes), torch.tensor([1.5, 1.1, 1.5, 0.0]))
    assert edge_distance(z, codes[[0, 3]]).tolist() == [math.inf] * 4
    assert edge_distance(z[:0], codes).shape == (0,)
    with pytest.raises(ValueError, match=r"z: expected shape \(N, 2\), got \(2,\)"):
        edge_distance(z[0], codes)


def test_edges_of_many_codes_by_walking_to_every_other_code():
    """Towards code b, at a share t of the way, z + t(b − z) leaves its cell if b is nearer there.

    The edge is met at t = gap / (2 (b − a)·(b − z)), by bisection; its distance is that walk's
    part along the normal b − a. Far from the origin, where a matrix product is least exact.
    """
    codes, z = (torch.randn(n, 3, generator=seeded(n)) + 50 for n in (50, 15))
    wide_codes, wide = codes.double(), z.double()
    distance_NK = (wide[:, None] - wide_codes).norm(dim=-1)
    expected = [
        min(_walk(vector, wide_codes[own], b) for k, b in enumerate(wide_codes) if k != own)
        for vector, own in zip(wide, distance_NK.argmin(1).tolist(), strict=True)
    ]
    # Two squares, each less than 64 and wrong by at most 8·2⁻²⁴ of it, over 2·‖a − b‖ > 0.2.
    assert distance_NK.max() < 8
    assert torch.cdist(wide_codes, wide_codes).fill_diagonal_(9).min() > 0.1
    found = edge_distance(z, codes)
    assert found.min() > 0
    bound = {"rtol": 0, "atol": 2 * 64 * 8 * 2**-24 / 0.2}
    assert_close(found.double(), torch.tensor(expected).double(), **bound)


def _walk(vector, own, other):
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        point = vector + middle * (other - vector)
        inside = (point - own).norm() <= (point - other).norm()
        low, high = (middle, high) if inside else (low, middle)
    normal = (other - own) / (other - own).norm()
    return (low * (other - vector)) @ normal


def test_loss_of_each_code_by_a_loop():
    generator = seeded()
    model = VQVAE(VectorQuantizer(5, 3), channels=2, width=4, levels=1, generator=generator)
    model.quantizer.codebook.data.copy_(torch.randn(5, 3, generator=generator))
    image = torch.rand(1, 2, 6, 8, generator=generator)
    indices = model.encode(image)
    losses = loss_of_each_code(model, image, indices, (2, 1))
    for code in range(5):
        changed = indices.clone()
        changed[0, 2, 1] = code
        expected = (model.decode(changed) - image).square().sum().detach()
        assert_close(losses[code], expected)
    assert torch.equal(indices, model.encode(image))
