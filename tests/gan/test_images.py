"""DCGAN's networks: shapes, layers, labels, initial weights."""

import pytest
import torch
from torch import nn

from companion.gan.images import ImageDiscriminator, ImageGenerator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("classes", [None, 7])
@pytest.mark.parametrize(("channels", "size", "levels"), [(3, 12, 1), (2, 24, 3)])
def test_shapes_there_and_back(channels, size, levels, classes, device):
    of = {"channels": channels, "size": size, "levels": levels, "num_classes": classes}
    generator = ImageGenerator(11, **of, width=3).to(device)
    discriminator = ImageDiscriminator(**of, width=3).to(device)
    noise = torch.randn(5, 11, device=device)
    labels = () if classes is None else (torch.tensor([0, 6, 3, 3, 1], device=device),)
    images = generator(noise, *labels)
    assert images.shape == (5, channels, size, size)
    assert images.abs().max() < 1
    assert discriminator(images, *labels).shape == (5,)
    assert generator.latent_features == 11


def test_layers_are_dcgans():
    def kinds(network):
        return [type(layer).__name__ for layer in network.layers]

    up = ["BatchNorm2d", "ReLU", "ConvTranspose2d"]
    assert kinds(ImageGenerator(4)) == ["Linear", "Unflatten", *up, *up, "Tanh"]
    first, level = ["Conv2d", "LeakyReLU"], ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert kinds(ImageDiscriminator(levels=3)) == [*first, *level, *level, "Flatten", "Linear"]
    plain = ImageDiscriminator(batch_norm=False)
    assert kinds(plain) == [*first, *first, "Flatten", "Linear"]
    assert plain.layers[1].negative_slope == plain.layers[3].negative_slope == 0.2


def test_numbers_of_maps_and_parameters_by_hand():
    """Linear (11+7)→2·5·2·2; 10→5, 5→3 channels. A bias only where no normalisation follows."""
    generator = ImageGenerator(11, channels=3, width=5, num_classes=7)
    count = sum(p.numel() for p in generator.parameters())
    assert count == 18 * 40 + 2 * 10 + 10 * 5 * 16 + 2 * 5 + 5 * 3 * 16 + 3
    discriminator = ImageDiscriminator(channels=3, width=5, num_classes=7)
    count = sum(p.numel() for p in discriminator.parameters())
    assert count == (10 * 5 * 16 + 5) + (5 * 10 * 16 + 2 * 10) + (40 + 1)


def test_label_stands_behind_the_noise_and_as_a_map_behind_the_image():
    seen = {}
    generator = ImageGenerator(2, num_classes=3)
    discriminator = ImageDiscriminator(num_classes=3)
    for network in (generator, discriminator):
        network.layers[0].register_forward_pre_hook(lambda *of: seen.update({of[0]: of[1][0]}))
    labels = torch.tensor([2, 0])
    noise, images = torch.randn(2, 2), torch.randn(2, 1, 8, 8)
    generator(noise, labels)
    discriminator(images, labels)
    one_hot = torch.tensor([[0.0, 0, 1], [1, 0, 0]])
    assert torch.equal(seen[generator.layers[0]], torch.cat([noise, one_hot], 1))
    maps = torch.zeros(2, 3, 8, 8)
    maps[0, 2] = maps[1, 0] = 1
    assert torch.equal(seen[discriminator.layers[0]], torch.cat([images, maps], 1))


@pytest.mark.parametrize("build", [lambda **of: ImageGenerator(99, **of), ImageDiscriminator])
def test_weights_have_the_published_spread_and_come_from_the_generator_alone(build):
    before = torch.get_rng_state()
    one, again, other = (build(width=64, levels=3, generator=seeded(s)) for s in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one.parameters(), again.parameters()))
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)
    scales = [m.weight for m in one.modules() if isinstance(m, nn.BatchNorm2d)]
    for found, mean in ((scales, 1.0), ([p for p in one.parameters() if p.ndim > 1], 0.0)):
        values = torch.cat([p.detach().flatten() for p in found])
        bound = 5 * 0.02 / len(values) ** 0.5  # five standard errors of the mean
        assert values.mean().item() == pytest.approx(mean, abs=bound)
        assert values.std().item() == pytest.approx(0.02, abs=bound)
    assert not any(p.any() for name, p in one.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ImageGenerator(4, size=10), r"size must be a multiple of 4 = 2\^levels, got 10"),
        (lambda: ImageGenerator(4, levels=0), "levels must be at least 1, got 0"),
        (lambda: ImageDiscriminator(num_classes=0), "num_classes must be at least 1, got 0"),
        (lambda: ImageGenerator(4)(torch.ones(2, 3)), r"\(B, 4\), got \(2, 3\)"),
        (lambda: ImageDiscriminator()(torch.ones(2, 1, 8, 9)), r"\(B, 1, 8, 8\), got \(2, 1, 8"),
    ],
)
def test_images_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (None, torch.tensor([0, 1]), "labels: expected none without num_classes, got some"),
        (3, None, "labels: expected a tensor of integers, got NoneType"),
        (3, torch.ones(2), "labels: expected a tensor of integers, got torch.float32"),
        (3, torch.tensor([0]), r"labels: expected shape \(2,\), got \(1,\)"),
        (3, torch.tensor([1, 3]), r"labels must be in \[0, 2\], got 1 to 3"),
        (3, torch.tensor([-1, 1]), r"labels must be in \[0, 2\], got -1 to 1"),
    ],
)
def test_labels_that_do_not_fit(classes, labels, message):
    generator = ImageGenerator(4, width=1, num_classes=classes)
    discriminator = ImageDiscriminator(width=1, num_classes=classes)
    for network, x in ((generator, torch.ones(2, 4)), (discriminator, torch.ones(2, 1, 8, 8))):
        with pytest.raises((TypeError, ValueError), match=message):
            network(x, labels)
