"""Trained critics against exact W₁ and closed forms; the loop's counts and its determinism."""

import copy

import ot
import pytest
import torch
from torch import nn

from companion.gan.samples import gaussian_ring
from companion.training.precision import DTYPE, PrecisionPolicy
from companion.wasserstein.lipschitz import lipschitz_estimate
from companion.wasserstein.networks import Critic, Generator
from companion.wasserstein.training import WGANStep, train_critic, train_wgan

CONSTRAINTS = ["clip", "penalty", "spectral"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def networks(seed=0, *, features=2, shape=(2,)):
    rng = seeded(seed)
    generator = Generator(3, shape, width=7, depth=1, generator=rng)
    return generator, Critic(features, width=7, depth=1, generator=rng)


def exact_w1(x, y):
    return ot.emd2([], [], torch.cdist(x.double(), y.double()).numpy())


# --- what a critic's estimate is worth --------------------------------------------------------


@pytest.mark.parametrize(("weight", "rate"), [(0.1, 0.05), (1.0, 0.02), (10.0, 0.02)])
def test_penalised_linear_critic_between_two_points(weight, rate):
    """max over s of s·w − λ(s − 1)² is at s = 1 + w/(2λ): a small λ inflates the estimate."""
    w = 1.5
    critic = Critic(1, width=1, depth=0, generator=seeded())
    real, fake = torch.full((4, 1), w), torch.zeros(4, 1)
    history = train_critic(
        critic,
        real,
        fake,
        constraint="penalty",
        steps=600,
        learning_rate=rate,
        penalty_weight=weight,
        generator_rng=seeded(),
    )
    slope = 1 + w / (2 * weight)
    assert history.estimate[-1].item() == pytest.approx(slope * w, rel=3e-3)
    assert history.penalty[-1].item() == pytest.approx(weight * (slope - 1) ** 2, rel=0.05)


def test_clipped_linear_critic_has_the_scale_of_its_limit():
    """max over |w_k| ≤ c of ⟨w, Δ⟩ is c·‖Δ‖₁: neither W₁ nor of its scale."""
    real = torch.randn(50, 3, generator=seeded())
    shift = torch.tensor([1.0, -2.0, 0.5])
    critic = Critic(3, width=1, depth=0, generator=seeded())
    history = train_critic(
        critic, real + shift, real, constraint="clip", steps=400, learning_rate=1e-2
    )
    assert history.estimate[-1].item() == pytest.approx(0.01 * 3.5, rel=1e-4)
    assert not history.penalty.any()


def test_spectral_linear_critic_is_exact_for_a_translation():
    real = torch.randn(50, 3, generator=seeded())
    shift = torch.tensor([2.0, -3.0, 6.0])
    critic = Critic(3, width=1, depth=0, generator=seeded())
    history = train_critic(
        critic, real + shift, real, constraint="spectral", steps=400, learning_rate=1e-2
    )
    assert history.estimate[-1].item() == pytest.approx(7.0, rel=1e-3)


@pytest.mark.parametrize(("constraint", "least"), [("penalty", 0.9), ("spectral", 0.5)])
def test_trained_critic_against_exact_w1(constraint, least, device):
    """The estimate over its measured slope never passes W₁ and comes close under the penalty."""
    real = gaussian_ring(128, generator=seeded())
    fake = 0.5 * torch.randn(128, 2, generator=seeded(1))
    exact = exact_w1(real, fake)
    real, fake = real.to(device), fake.to(device)
    critic = Critic(2, width=64, depth=2, generator=seeded(2)).to(device)
    train_critic(
        critic,
        real,
        fake,
        constraint=constraint,
        steps=300,
        learning_rate=2e-3,
        generator_rng=seeded(3),
    )
    critic.eval()
    with torch.no_grad():
        gap = (critic(real).mean() - critic(fake).mean()).item()
    bound = gap / lipschitz_estimate(critic, real, fake).item()
    assert least * exact < bound <= exact * (1 + 1e-5)
    if constraint == "penalty":
        assert gap == pytest.approx(exact * (1 + exact / 20), rel=0.1)
    else:
        assert gap < exact


# --- the two loops ----------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_every_step_runs_the_critic_n_times_then_the_generator_once(constraint):
    generator, critic = networks()
    calls = []
    generator.register_forward_hook(lambda *_: calls.append("generator"))
    critic.register_forward_hook(lambda *_: calls.append("critic"))
    train_wgan(
        generator,
        critic,
        torch.randn(11, 2, generator=seeded()),
        steps=2,
        constraint=constraint,
        n_critic=3,
        warm_up=0,
    )
    one_critic_step = ["generator", "critic", "critic"] + ["critic"] * (constraint == "penalty")
    assert calls == 2 * (3 * one_critic_step + ["generator", "critic"])


@pytest.mark.parametrize(("constraint", "expected"), [("clip", 100), ("penalty", 5)])
def test_default_number_of_critic_steps_is_the_published_one(constraint, expected):
    generator, critic = networks()
    calls = []
    generator.register_forward_hook(lambda *_: calls.append(1))
    train_wgan(generator, critic, torch.ones(11, 2), steps=1, constraint=constraint)
    assert len(calls) == expected + 1


def test_both_networks_learn_and_clipped_weights_stay_in_the_box():
    generator, critic = networks()
    before = copy.deepcopy((generator.state_dict(), critic.state_dict()))
    train_wgan(generator, critic, torch.ones(11, 2), steps=2, warm_up=0, clip_limit=0.02)
    for network, old in zip((generator, critic), before, strict=True):
        assert any(not torch.equal(p, old[name]) for name, p in network.state_dict().items())
    largest = max(p.abs().max().item() for p in critic.parameters())
    assert largest == pytest.approx(0.02)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_same_seed_same_bits_and_the_global_seed_is_untouched(constraint, device):
    data = gaussian_ring(50, generator=seeded()).to(device)

    def run(seed):
        generator, critic = (network.to(device) for network in networks(1))
        history = train_wgan(
            generator,
            critic,
            data,
            steps=3,
            constraint=constraint,
            warm_up=0,
            generator_rng=seeded(seed),
        )
        return torch.stack([*history[:3]]), torch.cat([p.flatten() for p in generator.parameters()])

    before = torch.get_rng_state()
    one, same, other = run(4), run(4), run(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == (3, 3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_16_bits_train_as_32_do(constraint, precision, device):
    """Nearly the same losses, and not the same; the weights have 32 bits all the while."""
    data = gaussian_ring(50, generator=seeded()).to(device)

    def losses(policy):
        generator, critic = (network.to(device) for network in networks(1))
        scores = set()
        critic.register_forward_hook(lambda _, inputs, output: scores.add(output.dtype))
        of = {"constraint": constraint, "generator_rng": seeded(), "precision": policy}
        history = train_wgan(generator, critic, data, steps=9, warm_up=0, learning_rate=1e-3, **of)
        for parameter in [*generator.parameters(), *critic.parameters()]:
            assert parameter.dtype == torch.float32
        return torch.stack([*history[:3]]), scores

    scaler = torch.amp.GradScaler(device, init_scale=2.0**9) if precision == "fp16" else None
    (expected, _), (got, scores) = map(
        losses, (None, PrecisionPolicy(precision, device, scaler=scaler))
    )
    assert scores == {DTYPE[precision]} | ({torch.float32} if constraint == "penalty" else set())
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)
    assert not torch.equal(got[0], expected[0])
    assert not torch.equal(got[2], expected[2])


def test_estimate_is_minus_the_critic_loss_of_the_batches_seen():
    generator, critic = networks()
    train = {"constraint": "penalty", "n_critic": 1, "generator_rng": seeded(7)}
    expected_generator, expected_critic = copy.deepcopy((generator, critic))
    history = train_wgan(generator, critic, torch.ones(9, 2), steps=1, batch_size=5, **train)
    rng = seeded(7)
    torch.randint(9, (5,), generator=rng)
    with torch.no_grad():
        fake = expected_generator(torch.randn(5, 3, generator=rng))
        gap = expected_critic(torch.ones(5, 2)).mean() - expected_critic(fake).mean()
    torch.testing.assert_close(history.estimate, gap[None])
    torch.testing.assert_close(history.critic_loss, -gap[None])


def test_penalty_weight_reaches_the_first_critic_step():
    def first_penalty(weight):
        return train_wgan(
            *networks(),
            torch.eye(2),
            steps=1,
            constraint="penalty",
            n_critic=1,
            penalty_weight=weight,
            generator_rng=seeded(),
        ).penalty[0]

    torch.testing.assert_close(first_penalty(30.0), 10 * first_penalty(3.0))
    assert first_penalty(3.0) > 0


def test_evaluations_stand_under_the_steps_done():
    generator, critic = networks()
    seen = []
    history = train_wgan(
        generator,
        critic,
        torch.ones(9, 2),
        steps=5,
        constraint="penalty",
        evaluate=lambda: seen.append(generator.layers[0].weight.clone()) or len(seen),
        evaluate_every=2,
    )
    assert history.evaluations == {0: 1, 2: 2, 4: 3, 5: 4}
    assert not torch.equal(seen[0], seen[1])


def test_images_of_any_shape(device):
    generator, critic = (n.to(device) for n in networks(features=30, shape=(2, 3, 5)))
    data = torch.rand(11, 2, 3, 5, generator=seeded()).to(device)
    history = train_wgan(generator, critic, data, steps=2, constraint="penalty", batch_size=7)
    assert history.penalty.isfinite().all()
    assert history.penalty.device.type == device


def test_a_generator_learns_a_shift():
    data = 3 + 0.1 * torch.randn(256, 1, generator=seeded())
    generator = Generator(1, 1, width=8, depth=1, generator=seeded())
    critic = Critic(1, width=16, depth=1, generator=seeded(1))
    noise = torch.randn(256, 1, generator=seeded(2))

    def distance():
        with torch.no_grad():
            return exact_w1(generator(noise), data)

    history = train_wgan(
        generator,
        critic,
        data,
        steps=100,
        constraint="penalty",
        learning_rate=1e-2,
        generator_rng=seeded(3),
        evaluate=distance,
        evaluate_every=100,
    )
    assert history.evaluations[0] > 2
    assert history.evaluations[100] < 0.5


def test_spectral_normalises_once_and_carries_on():
    generator, critic = networks()
    settings = {"steps": 1, "constraint": "spectral"}
    train_wgan(generator, critic, torch.ones(9, 2), **settings)
    train_wgan(generator, critic, torch.ones(9, 2), **settings)
    assert len(critic.layers[0].parametrizations.weight) == 1


def test_state_is_all_that_a_second_half_needs():
    def fresh():
        rng = seeded(5)
        return WGANStep(
            *networks(), torch.eye(2), constraint="spectral", n_critic=2, generator_rng=rng
        )

    whole = fresh()
    for i in range(4):
        expected = whole(i)
    first = fresh()
    for i in range(2):
        first(i)
    second = fresh()
    for name, part in second.state.items():
        part.load_state_dict(first.state[name].state_dict())
    second.rng.set_state(first.rng.get_state())
    for i in range(2, 4):
        got = second(i)
    for name, value in expected.items():
        assert torch.equal(got[name], value)


@pytest.mark.parametrize("constraint", ["clip", "spectral"])
def test_samples_of_two_sizes(constraint):
    _, critic = networks()
    history = train_critic(
        critic, torch.ones(5, 2), torch.zeros(7, 2), constraint=constraint, steps=3
    )
    assert history.estimate.shape == (3,)


def test_penalty_between_two_sizes_needs_a_batch_size():
    _, critic = networks()
    real, fake = torch.ones(5, 2), torch.zeros(7, 2)
    with pytest.raises(ValueError, match=r"one shape .* got \(5, 2\) and \(7, 2\)"):
        train_critic(critic, real, fake, constraint="penalty", steps=1)
    train_critic(critic, real, fake, constraint="penalty", steps=1, batch_size=3)


def test_full_samples_are_paired_anew_at_every_step():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append(x.detach().flatten())
            return super().forward(x).squeeze(1)

    real = torch.arange(50.0)[:, None]
    train_critic(Spy(1, 1), real, real + 100, constraint="spectral", steps=2)
    first, second = seen[0], seen[2]
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(seen[1] - 100, seen[0])


def test_no_steps():
    generator, critic = networks()
    assert train_wgan(generator, critic, torch.ones(9, 2), steps=0).estimate.shape == (0,)
    history = train_critic(critic, torch.ones(9, 2), torch.ones(9, 2), constraint="clip", steps=0)
    assert history.penalty.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"constraint": "clipping"}, r"constraint must be one of \('clip', .* got 'clipping'"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"n_critic": 0}, "n_critic must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
    ],
)
def test_train_wgan_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_wgan(*networks(), torch.ones(9, 2), **{"steps": 1, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"constraint": "none"}, "got 'none'"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_train_critic_refuses(arguments, message):
    settings = {"constraint": "clip", "steps": 1, **arguments}
    with pytest.raises(ValueError, match=message):
        train_critic(networks()[1], torch.ones(9, 2), torch.ones(9, 2), **settings)
