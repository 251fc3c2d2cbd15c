"""The whole model: the written loss and its gradients, codes there and back, 16 bits."""

import pytest
import torch
from torch.testing import assert_close

from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.finite_scalar import FiniteScalarQuantizer
from companion.vqvae.model import VQVAE
from companion.vqvae.quantizer import VectorQuantizer
from companion.vqvae.residual import ResidualQuantizer

K, D = 7, 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def codebook(kind=EMAVectorQuantizer, seed=1, **options):
    """Codes as large as what an encoder gives, so that several are chosen."""
    made = kind(K, D, **options)
    with torch.no_grad():
        made.codebook.copy_(torch.randn(K, D, generator=seeded(seed)))
    if kind is EMAVectorQuantizer:
        made.embed_avg.copy_(made.codebook)
    return made


QUANTIZERS = {
    "gradient": lambda: codebook(VectorQuantizer),
    "ema": codebook,
    "fsq": lambda: FiniteScalarQuantizer([3, 5, 2]),
    "residual": lambda: ResidualQuantizer([codebook(seed=1), codebook(VectorQuantizer, seed=2)]),
}


@pytest.fixture(params=QUANTIZERS)
def model(request):
    return build(QUANTIZERS[request.param]())


def build(quantizer):
    of = {"channels": 2, "width": 8, "levels": 1, "residual_blocks": 1}
    return VQVAE(quantizer, **of, generator=seeded())


def images(dtype=torch.float32):
    return torch.rand(5, 2, 8, 12, generator=seeded(3), dtype=dtype)


def test_shapes_and_the_initial_weights_in_order(model):
    reconstruction, indices, loss = model(images())
    levels = (2,) if isinstance(model.quantizer, ResidualQuantizer) else ()
    assert (reconstruction.shape, loss.shape) == ((5, 2, 8, 12), ())
    assert indices.shape == (5, 4, 6, *levels)
    assert len(indices.unique()) > 1
    again = build(codebook())
    for name in ("encoder", "decoder"):
        weights, same = (m.get_submodule(name).parameters() for m in (model, again))
        assert all(map(torch.equal, weights, same))
    assert not torch.equal(model.encoder.layers[0].weight, again.decoder.layers[-1].weight)


@pytest.mark.parametrize("beta", [0.1, 3.0])
def test_the_written_loss_and_its_gradients(beta):
    """In float64, with the usual spelling of straight-through; β far from 1 shows where it is."""
    made = build(codebook(VectorQuantizer, beta=beta)).double()
    assert made(torch.zeros(0, 2, 4, 4).double()).loss == 0
    x = images(torch.float64)
    z = made.encoder(x).permute(0, 2, 3, 1)
    nearest = (z[..., None, :] - made.quantizer.codebook).square().sum(-1).argmin(-1)
    e = made.quantizer.codebook[nearest]
    x_hat = made.decoder((z + (e - z).detach()).permute(0, 3, 1, 2))
    codes, commitment = (z.detach() - e).square().mean(), (z - e.detach()).square().mean()
    assert commitment > 0.01  # after straight-through it would be 0
    written = (x - x_hat).square().mean() + codes + beta * commitment
    parameters = list(made.parameters())
    expected = torch.autograd.grad(written, parameters)

    reconstruction, indices, loss = made(x)
    assert loss.dtype == torch.float64
    assert torch.equal(indices, nearest)
    close = {"rtol": 1e-12, "atol": 1e-14}  # float32 anywhere would be seen
    assert_close(reconstruction, x_hat, **close)
    assert_close(loss, written, **close)
    assert_close(torch.autograd.grad(loss, parameters), expected, **close)


def test_codes_there_and_back(model, device):
    model = model.to(device).eval()
    x = images().to(device)
    with torch.no_grad():
        reconstruction, indices, _ = model(x)
    assert torch.equal(model.encode(x), indices)
    # The same bits go in, but for FSQ's and a sum's last rounding.
    assert_close(model.decode(indices), reconstruction)


def test_encode_leaves_the_codebook_and_each_modules_mode_alone(model):
    """Also where a first level is frozen beside one that learns."""
    if isinstance(model.quantizer, ResidualQuantizer):
        model.quantizer.quantizers[0].eval()
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    indices = model.encode(images())
    assert not indices.is_floating_point()
    with pytest.raises(ValueError, match="images: expected sides that are multiples of 2"):
        model.encode(torch.zeros(1, 2, 3, 4))
    assert [part.training for part in model.modules()] == modes
    assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_under_autocast_the_loss_is_in_32_bits(model, device):
    """An error of less than 2⁻⁹ at 0.5, where bfloat16 steps by 2⁻⁸."""
    model = model.to(device).eval()
    last = model.decoder.layers[-1]
    last.weight.data.zero_()
    last.bias.data.fill_(0.5)
    x = torch.full((3, 2, 4, 6), 0.5 + 0.875 * 2**-9, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        reconstruction, _, loss = model(x)
        rest = model.quantizer(model.encoder(x).movedim(1, -1)).loss
    assert reconstruction.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert rest < 4  # so that the sum is rounded by at most 2⁻²³; the square is 13 times that
    assert_close((loss - rest).item(), (0.875 * 2**-9) ** 2, rtol=1e-5, atol=2**-22)


def test_a_model_in_16_bits_decodes_codes_that_stayed_in_32(model):
    model = model.bfloat16().eval()
    decoded = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(inputs[0]))
    x = images(torch.bfloat16)
    reconstruction, indices, loss = model(x)
    assert (reconstruction.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert model.decode(indices).shape == reconstruction.shape
    # z + (z_q − z) is z_q up to rounding in float32, so after the cast one step of 16 bits at most.
    assert_close(decoded[1], decoded[0], rtol=2**-7, atol=1e-6)
