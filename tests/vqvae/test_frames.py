"""What the explorables show: palettes of a photograph, reconstructions of several models."""

import matplotlib
import pytest
import torch

from companion.vqvae import VQVAE, VectorQuantizer
from companion.vqvae.study.palettes import Palettes
from companion.vqvae.study.reconstructions import Reconstructions

matplotlib.use("Agg")

pytestmark = pytest.mark.usefixtures("no_window")


def test_a_palette_gives_each_pixel_its_nearest_colour():
    photo = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])[:, None]  # two pixels side by side
    dark, light = torch.tensor([0.0, 0.2, 0.3]), torch.tensor([1.0, 0.8, 0.7])
    palettes = Palettes(photo, {2: torch.stack([light, dark]), 1: dark[None]})
    assert palettes.values == [2, 1]
    assert torch.equal(palettes.quantized(2)[:, 0].T, torch.stack([dark, light]))
    # With one colour: 0.1 is off by 0.1; 0.9, 0.8, 0.7 by 0.9, 0.6, 0.4.
    assert palettes.error(1) == pytest.approx((0.01 + 0.81 + 0.36 + 0.16) / 6)
    figure = palettes.draw(2)
    assert [axes.get_title() for axes in figure.axes][:2] == ["original", "2 colours"]
    shown = figure.axes[2].images[0].get_array()
    assert torch.equal(torch.as_tensor(shown)[0], torch.stack([dark, light]))  # dark first
    assert palettes.describe(1) == "1 colours: mean squared error 0.2233."


def test_reconstructions_are_the_models_own():
    models = {}
    for bits, codes in ((16, 2), (64, 16)):
        generator = torch.Generator().manual_seed(bits)
        quantizer = VectorQuantizer(codes, 2, generator=generator)
        of = {"width": 3, "levels": 1, "residual_blocks": 0, "generator": generator}
        models[bits] = VQVAE(quantizer, **of).eval()
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    shown = Reconstructions(models, images)
    assert shown.values == [16, 64]
    error = (models[64](images).reconstruction - images).square().mean().item()
    assert shown.error(64) == pytest.approx(error)
    assert f"64 bits an image: mean squared error {error:.4f}" in shown.describe(64)
    assert len(Reconstructions(models, images, rivals={"none": {16: images}}).draw(16).axes) == 9
    figure = shown.draw(64)
    assert len(figure.axes) == 6
    drawn = figure.axes[3].images[0].get_array()
    expected = models[64](images).reconstruction[0, 0].clamp(0, 1).detach()
    assert torch.equal(torch.as_tensor(drawn), expected)
