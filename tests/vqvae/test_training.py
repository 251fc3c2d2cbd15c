"""Steps recomputed in plain torch, to the bit; 16 bits; looks; what a checkpoint needs."""

import copy

import pytest
import torch
from torch.testing import assert_close

from companion.training.precision import PrecisionPolicy
from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.model import VQVAE
from companion.vqvae.quantizer import VectorQuantizer
from companion.vqvae.residual import ResidualQuantizer
from companion.vqvae.training import VQVAEStep, train_vqvae

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def model(rng=None):
    """Two levels: one learns by averages and draws revived codes from ``rng``, one by gradient."""
    rng = rng or seeded(1)
    average = EMAVectorQuantizer(7, 3, decay=0.5, revive_below=0.6, generator=rng)
    levels = ResidualQuantizer([average, VectorQuantizer(7, 3, generator=seeded(2))])
    of = {"channels": 2, "width": 4, "levels": 1, "residual_blocks": 1}
    return VQVAE(levels, **of, generator=seeded(3))


def images(n=11):
    return torch.rand(n, 2, 4, 6, generator=seeded(4))


def test_steps_against_plain_torch():
    """The same draws in the same order, so the same bits; the model was left in eval mode."""
    rng, other_rng, data = seeded(5), seeded(5), images()
    ours, theirs = model(rng).eval(), model(other_rng)
    history = train_vqvae(ours, data, steps=4, batch_size=5, learning_rate=0.02, generator=rng)
    adam, losses, perplexities = torch.optim.Adam(theirs.parameters(), lr=0.02), [], []
    for _ in range(4):
        _, indices, loss = theirs(data[torch.randint(11, (5,), generator=other_rng)])
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.detach())
        share = indices.flatten().bincount().double() / indices.numel()
        perplexities.append(torch.special.entr(share).sum().exp().float())
    assert torch.equal(history.loss, torch.stack(losses))
    assert_close(history.perplexity, torch.stack(perplexities))
    assert history.evaluations == {}
    assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    assert torch.equal(rng.get_state(), other_rng.get_state())


def test_looks_before_the_first_step_every_few_and_at_the_end():
    made, seen = model(), []

    def look():
        made.eval()  # the next step learns nevertheless
        seen.append(made.quantizer.quantizers[0].codebook.clone())
        return len(seen)

    of = {"batch_size": 5, "generator": seeded(), "evaluate": look, "evaluate_every": 2}
    history = train_vqvae(made, images(), steps=5, **of)
    assert history.evaluations == {0: 1, 2: 2, 4: 3, 5: 4}
    assert not any(map(torch.equal, seen, seen[1:]))
    assert train_vqvae(made, images(), steps=4, **of).evaluations == {0: 5, 2: 6, 4: 7}
    nothing = train_vqvae(made, images(), steps=0, **of)
    assert (nothing.loss.shape, nothing.perplexity.shape) == ((0,), (0,))
    assert nothing.evaluations == {0: 8}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_train_as_32_do_and_keep_the_codebook_in_32(precision, device):
    """Networks round by 2⁻⁸ at worst, some times over; codes are chosen from float32."""
    data = images(64).to(device)

    def run(policy):
        quantizer = EMAVectorQuantizer(2, 3, generator=seeded())
        made = VQVAE(quantizer, channels=2, width=4, levels=1, generator=seeded(3)).to(device)
        dtypes = set()
        made.encoder.register_forward_hook(lambda _, inputs, output: dtypes.add(output.dtype))
        history = train_vqvae(made, data, steps=6, generator=seeded(), precision=policy)
        kinds = {v.dtype for v in made.state_dict().values() if v.is_floating_point()}
        assert kinds == {torch.float32}
        return history.loss, dtypes

    scaler = torch.amp.GradScaler(device, init_scale=2.0**9) if precision == "fp16" else None
    expected, _ = run(None)
    got, dtypes = run(PrecisionPolicy(precision, device, scaler=scaler))
    assert dtypes == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert got.dtype == torch.float32
    assert_close(got, expected, rtol=0.03, atol=0)
    assert not torch.equal(got, expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_state_and_generator_hold_all_that_the_next_step_needs(precision):
    def start(seed):
        rng, scaler = seeded(seed), None
        if precision == "fp16":
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**seed, growth_interval=3)
        policy = PrecisionPolicy(precision, "cpu", scaler=scaler)
        of = {"batch_size": 5, "generator": rng, "precision": policy}
        return VQVAEStep(model(rng), images(), **of), rng

    step, rng = start(6)
    for i in range(4):
        step(i)
    saved = copy.deepcopy({name: part.state_dict() for name, part in step.state.items()})
    other, other_rng = start(9)
    for name, part in other.state.items():
        part.load_state_dict(saved[name])
    other_rng.set_state(rng.get_state())
    for i in range(4, 7):
        assert_close(step(i), other(i), rtol=0, atol=0)
    assert_close(dict(step.model.state_dict()), dict(other.model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number in .* got -1"),
        ({"images": images(0)}, r"images: expected \(N, C, H, W\), N ≥ 1, got \(0, 2, 4, 6\)"),
        ({"images": images()[0]}, r"images: expected \(N, C, H, W\), N ≥ 1, got \(2, 4, 6\)"),
    ],
)
def test_train_vqvae_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_vqvae(model(), **{"images": images(), "steps": 1, **arguments})
