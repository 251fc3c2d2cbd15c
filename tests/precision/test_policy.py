"""Earlier chapters' recipes with this chapter's scaler: the run that torch.amp gives, to the bit.

They do not know ``LossScaler``: it is handed in.
"""

from collections.abc import Callable, Iterable

import pytest
import torch

from companion.language.fine_tuning import FineTuning
from companion.lora.injection import lora_parameters
from companion.precision import LossScaler
from companion.training.precision import PrecisionPolicy, Scaler
from companion.wasserstein.networks import Critic, Generator
from companion.wasserstein.training import WGANStep
from tests.language.test_fine_tuning import EXAMPLES, adapted

Recipe = tuple[Callable[[int], object], Iterable[torch.nn.Parameter]]


def fine_tuning(policy: PrecisionPolicy) -> Recipe:
    model = adapted()
    trained = list(lora_parameters(model))
    settings = {"steps": 25, "batch_size": 4, "learning_rate": 0.02}
    return FineTuning(model, trained, EXAMPLES, **settings, precision=policy), trained


def wgan(policy: PrecisionPolicy) -> Recipe:
    start = torch.Generator().manual_seed(3)
    generator = Generator(2, 3, width=7, depth=1, generator=start)
    critic = Critic(3, width=7, depth=1, generator=start)
    data = torch.randn(11, 3, generator=start)
    settings = {"constraint": "penalty", "n_critic": 2, "batch_size": 5, "generator_rng": start}
    step = WGANStep(generator, critic, data, **settings, learning_rate=0.01, precision=policy)
    return step, [*generator.parameters(), *critic.parameters()]


def run(recipe: Callable[[PrecisionPolicy], Recipe], scaler: Scaler) -> tuple[list, list]:
    """Weights after 25 steps, and the scale after each of them."""
    step, weights = recipe(PrecisionPolicy("fp16", "cpu", scaler=scaler))
    scales = []
    for i in range(25):
        step(i)
        scales.append(scaler.state_dict()["scale"])
    return [weight.detach() for weight in weights], scales


@pytest.mark.parametrize("recipe", [fine_tuning, wgan])
def test_loss_scaler_gives_the_run_of_grad_scaler(recipe):
    """From 2²⁴ both overflow, and grow again: powers of two, so that no bit differs."""
    options = {"init_scale": 2.0**24, "growth_interval": 7}
    expected, their_scales = run(recipe, torch.amp.GradScaler("cpu", **options))
    got, scales = run(recipe, LossScaler(**options))
    assert scales == their_scales
    lowest = scales.index(min(scales))
    assert min(scales) < 2.0**22
    assert max(scales[lowest:]) > min(scales)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours, theirs)
    unscaled, _ = run(recipe, LossScaler(init_scale=1.0, static=True))
    assert not all(map(torch.equal, got, unscaled))  # the scale is of consequence
