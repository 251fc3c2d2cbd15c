"""Encoder and decoder: sizes, arithmetic of the convolutions, initial weights."""

import math

import pytest
import torch
from torch import nn

from companion.vqvae.networks import Decoder, Encoder

NETWORKS = Encoder, Decoder


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def signs(*shape):
    """Images whose mean square is 1 to the bit, whatever part of them a unit sees."""
    return torch.randint(2, shape, generator=seeded(1)) * 2.0 - 1


@pytest.mark.parametrize("residual_blocks", [0, 1])
@pytest.mark.parametrize("levels", [0, 1, 3])
def test_sizes_there_and_back(levels, residual_blocks, device):
    of = {"channels": 2, "width": 7, "levels": levels, "residual_blocks": residual_blocks}
    encoder, decoder = (build(5, **of).to(device) for build in NETWORKS)
    side = 2**levels
    grid = encoder(torch.rand(3, 2, 2 * side, 3 * side, device=device))
    assert grid.shape == (3, 5, 2, 3)
    assert decoder(grid).shape == (3, 2, 2 * side, 3 * side)
    assert encoder(torch.rand(0, 2, side, side, device=device)).shape == (0, 5, 1, 1)
    assert encoder.stride == side


def test_numbers_of_parameters_by_hand():
    of = {"channels": 2, "width": 7, "residual_blocks": 1}
    block = (7 * 7 * 9 + 7) + (7 * 7 + 7)
    expected = {
        (Encoder, 2): (2 * 7 * 16 + 7) + (7 * 7 * 16 + 7) + block + (7 * 5 + 5),
        (Encoder, 0): (2 * 7 * 9 + 7) + block + (7 * 5 + 5),
        (Decoder, 2): (5 * 7 * 9 + 7) + block + (7 * 7 * 16 + 7) + (7 * 2 * 16 + 2),
        (Decoder, 0): (5 * 7 * 9 + 7) + block + (7 * 2 * 9 + 2),
    }
    for (build, levels), count in expected.items():
        assert sum(p.numel() for p in build(5, levels=levels, **of).parameters()) == count


def test_what_an_encoders_cell_sees():
    """Receptive field 1 + 3·(1 + 2) + 2·4 = 18 with two levels and one 3×3 block, from 4·i − 7."""
    encoder = Encoder(1, width=16, levels=2, residual_blocks=1, generator=seeded())
    nn.init.ones_(encoder.layers[3].layers[-1].weight)  # the block starts as the identity
    image = torch.rand(1, 1, 40, 48, generator=seeded(), requires_grad=True)
    (slope,) = torch.autograd.grad(encoder(image)[0, 0, 4, 5], image)
    rows, columns = (slope[0, 0].any(dim).nonzero()[:, 0].tolist() for dim in (1, 0))
    assert rows == list(range(9, 27))
    assert columns == list(range(13, 31))


@pytest.mark.parametrize("build", NETWORKS)
def test_initial_weights_keep_the_mean_square(build):
    """In expectation over the weights it is kept exactly, where no zero of a border comes in;
    each of the decoder's three transposed convolutions quarters it.

    Given what a layer sees, its n outputs at a place are normal and independent: their mean square
    varies by 2/n, relatively, after a ReLU by 5/n (E relu⁴ = 3/2, (E relu²)² = 1/4). Places and
    layers at worst vary together: 5/256 for each of four layers, over 8 networks.
    """
    found = []
    for seed in range(8):
        of = {"channels": 256, "width": 256, "levels": 3, "generator": seeded(seed)}
        inputs, cut = (signs(1, 256, 48, 48), 1) if build is Encoder else (signs(1, 256, 5, 5), 16)
        with torch.no_grad():
            output = build(256, residual_blocks=1, **of)(inputs)
        found.append(output[..., cut:-cut, cut:-cut].square().mean().item())
    spread = math.sqrt((1 + 5 / 256) ** 4 - 1) / math.sqrt(8)
    expected = 1 if build is Encoder else 4**-3
    assert sum(found) / 8 == pytest.approx(expected, rel=5 * spread)


@pytest.mark.parametrize("build", NETWORKS)
def test_inside_a_block_too_and_a_block_starts_as_the_identity(build):
    network = build(3, width=256, residual_blocks=1, generator=seeded())
    (block,) = (part for part in network.layers if type(part).__name__ == "_ResidualBlock")
    x = torch.randn(1, 256, 9, 9, generator=seeded())
    assert torch.equal(block(x), x)
    # 256 outputs of one place: 2/256 for them and 5/(9·256) for what they see.
    inner = block.layers[:2](x)[..., 1:-1, 1:-1].square().mean().item()
    assert inner == pytest.approx(1, abs=5 * math.sqrt(2 / 256 + 5 / (9 * 256)))


@pytest.mark.parametrize("build", NETWORKS)
def test_weights_come_from_the_generator_alone(build):
    before = torch.get_rng_state()
    one, again, other = (build(5, width=7, generator=seeded(s)) for s in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one.parameters(), again.parameters()))
    weights = [name for name, p in one.named_parameters() if p.ndim > 1 and p.any()]
    assert len(weights) == sum(p.ndim > 1 for p in one.parameters()) - 2  # the blocks' last
    assert not any(torch.equal(one.get_parameter(n), other.get_parameter(n)) for n in weights)
    assert not any(p.any() for name, p in one.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("build", NETWORKS)
def test_every_parameter_learns(build):
    network = build(2, channels=2, width=8, levels=2, residual_blocks=2, generator=seeded())
    x = torch.randn(3, 2, 8, 12, generator=seeded())
    sgd = torch.optim.SGD(network.parameters(), lr=1e-2)
    for _ in range(2):  # at the first a block's first weights wait for its last, which are 0
        sgd.zero_grad()
        network(x).square().sum().backward()
        sgd.step()
    assert all(p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("name", ["dim", "channels", "width", "levels", "residual_blocks"])
def test_sizes_that_are_refused(build, name):
    least = 0 if name in ("levels", "residual_blocks") else 1
    with pytest.raises(ValueError, match=f"{name} must be at least {least}, got {least - 1}"):
        build(**{"dim": 3, name: least - 1})


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (Encoder(3), (2, 1, 8, 10), "images: expected sides that are multiples of 4, got 8×10"),
        (Encoder(3), (2, 1, 0, 8), "images: expected sides that are multiples of 4, got 0×8"),
        (Encoder(3), (2, 3, 8, 8), r"images: expected shape \(B, 1, H, W\), got \(2, 3, 8, 8\)"),
        (Decoder(3), (2, 1, 4, 4), r"grid: expected shape \(B, 3, h, w\), got \(2, 1, 4, 4\)"),
        (Decoder(3), (2, 3, 0, 4), r"grid: expected shape \(B, 3, h, w\), got \(2, 3, 0, 4\)"),
    ],
)
def test_inputs_that_do_not_fit(network, shape, message):
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape))
