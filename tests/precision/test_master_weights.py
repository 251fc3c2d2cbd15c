"""MasterWeights beside the plain 32-bit optimizer on the same gradients, bit for bit."""

import io
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from companion.precision import FP16, LossScaler, MasterWeights

OPTIMIZERS = [
    (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.Adam, {"lr": 0.003, "betas": (0.8, 0.95)}),
    (torch.optim.AdamW, {"lr": 0.003, "weight_decay": 0.1}),
]
SHAPES = ((3, 5), (7,), ())


def drawn(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def pair(dtype=torch.float16, seed=0):
    """The same numbers in few bits and in 32."""
    short = [nn.Parameter(values) for values in drawn(dtype, seed)]
    return short, [nn.Parameter(weight.detach().float()) for weight in short]


def give(short, long=(), seed=0):
    """Equal gradients for both."""
    for weight, gradient in zip(short, drawn(torch.bfloat16, seed), strict=True):
        weight.grad = gradient.to(weight.dtype)
    for weight, other in zip(long, short, strict=False):
        weight.grad = other.grad.float()


def assert_equal(tensors, others):
    assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("optimizer_class", "options"), OPTIMIZERS)
def test_masters_are_the_plain_optimizers_weights(optimizer_class, options, dtype):
    short, long = pair(dtype)
    optimizer, plain = (
        MasterWeights(optimizer_class, short, **options),
        optimizer_class(long, **options),
    )
    for step in range(30):
        give(short, long, seed=step)
        optimizer.step()
        plain.step()
        assert_equal(optimizer.masters, long)
        assert_equal(short, [weight.to(dtype) for weight in long])
    assert not torch.equal(short[0].float(), long[0])


def test_training_ends_where_fp32_does_and_plain_fp16_stands_still():
    """With gradients w − t, the error obeys e ← (1 − η)e − η(round(w) − w): half a unit at most."""
    target = 1 + torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 0.75
    target, rate = target.half(), 2.0**-6
    short, long, alone = (nn.Parameter(torch.ones(1000, dtype=d)) for d in
                          (torch.float16, torch.float32, torch.float16))  # fmt: skip
    made = [MasterWeights(torch.optim.SGD, [short], lr=rate)]
    made += [torch.optim.SGD([weight], lr=rate) for weight in (long, alone)]
    for _ in range(1500):
        for weight, optimizer in zip((short, long, alone), made, strict=True):
            weight.grad = (weight - target.to(weight.dtype)).detach()
            optimizer.step()
    half_a_unit = FP16.epsilon / 2
    assert (made[0].masters[0] - long).abs().max() <= half_a_unit * (1 + 2.0**-10)
    # A step of η|w − t| < half a unit rounds away, so it stops at half a unit / η.
    left = (alone - target).abs().float()
    assert left.max() > 0.9 * half_a_unit / rate
    assert left.max() <= half_a_unit / rate
    assert (short - target).abs().max() <= FP16.epsilon


def test_groups_and_a_scheduler_keep_their_own_rates():
    short, long = pair()
    made = []
    for weights, build in ((short, MasterWeights), (long, None)):
        groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.5, "momentum": 0.0}]
        arguments = (groups,) if build is None else (torch.optim.SGD, groups)
        made.append((build or torch.optim.SGD)(*arguments, lr=0.125, momentum=0.9))
    schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in made]
    for step in range(4):
        give(short, long, seed=step)
        for optimizer, schedule in zip(made, schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert [group["lr"] for group in made[0].param_groups] == [0.125 / 16, 0.5 / 16]
    assert_equal(made[0].masters, long)


def test_parameters_in_32_bits_and_more_are_their_own_masters():
    short = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    single, double = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(5, dtype=torch.float64))
    optimizer = MasterWeights(torch.optim.SGD, [single, short, double], lr=0.001)
    assert optimizer.masters[0] is single
    assert optimizer.masters[2] is double
    for weight in (single, short, double):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert single.unique().item() == pytest.approx(0.999, rel=1e-7)
    assert double.unique().item() == pytest.approx(0.999, rel=1e-15)
    assert short.unique().item() == 1.0
    assert optimizer.masters[1].unique().item() == pytest.approx(0.999, rel=1e-7)
    assert single.grad is not None  # as after any optimizer's step
    assert optimizer.masters[1].grad is None
    assert short.grad is None


@pytest.mark.parametrize(("optimizer_class", "options"), OPTIMIZERS)
def test_a_restart_goes_on_to_the_bit(optimizer_class, options):
    (whole, _), (fresh, _) = pair(), pair(seed=99)
    optimizer = MasterWeights(optimizer_class, whole, **options)
    for step in range(8):
        if step == 5:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
        give(whole, seed=step)
        optimizer.step()
    again = MasterWeights(optimizer_class, fresh, **options | {"lr": 1.0})
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for step in range(5, 8):
        give(fresh, seed=step)
        again.step()
    assert_equal(again.masters, optimizer.masters)
    assert_equal(fresh, whole)


def test_a_state_is_not_changed_by_later_steps_and_its_masters_reach_the_model():
    short, _ = pair()
    optimizer = MasterWeights(torch.optim.SGD, short, lr=0.5)
    state, before = optimizer.state_dict(), [weight.detach().clone() for weight in short]
    give(short)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 7.0
    optimizer.load_state_dict(state)
    assert_equal(short, before)
    assert optimizer.param_groups[0]["lr"] == 0.5
    optimizer.param_groups[0]["lr"] = 0.0  # as a scheduler would, after a restart
    give(short)
    optimizer.step()
    assert_equal(short, before)


def test_gradients_of_several_backwards_add_up_in_32_bits():
    """In 16, 2048 + 1 is 2048."""
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float16))
    optimizer = MasterWeights(torch.optim.SGD, [weight], lr=1.0)
    for factor in (2048.0, 1.0, 1.0):
        (weight * factor).sum().backward()
        optimizer.collect_gradients()
    assert optimizer.masters[0].grad.tolist() == [2050.0, 2050.0]
    optimizer.zero_grad()
    assert optimizer.masters[0].grad is None
    (weight * 3).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert weight.grad.tolist() == [0.0, 0.0]
    (weight * 3).sum().backward()
    optimizer.step()
    assert optimizer.masters[0].tolist() == [-3.0, -3.0]


def test_frozen_and_unused_parameters_stay():
    short, _ = pair()
    short[1].requires_grad_(False)
    optimizer = MasterWeights(torch.optim.AdamW, short, lr=0.1, weight_decay=0.5)
    before = [weight.detach().clone() for weight in short]
    assert [master.requires_grad for master in optimizer.masters] == [True, False, True]
    (short[0].sum() * 2).backward()  # short[2] takes no part
    optimizer.step()
    assert not torch.equal(short[0], before[0])
    assert_equal(short[1:], before[1:])


def scaled_run(scaler, model_zero_grad=False):
    """The scale after each step, and the masters, of a regression in float16 that overflows."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(11, 5, generator=generator).half()
    targets = torch.randn(11, 3, generator=generator).half()
    model = nn.Linear(5, 3).half()
    for weight in model.parameters():
        nn.init.normal_(weight, generator=generator)
    optimizer, scales = (
        MasterWeights(torch.optim.SGD, model.parameters(), lr=0.05, momentum=0.9),
        [],
    )
    for _ in range(40):
        (model if model_zero_grad else optimizer).zero_grad()
        loss = (model(inputs) - targets).float().square().mean()
        scaler.scale(loss).backward()
        if isinstance(scaler, torch.amp.GradScaler):
            optimizer.collect_gradients()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(optimizer.masters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.state_dict()["scale"])
    return scales, optimizer.masters


def test_both_scalers_drive_it_alike():
    options = {"init_scale": 2.0**19, "growth_interval": 4}
    scales, masters = scaled_run(LossScaler(**options))
    expected_scales, expected = scaled_run(torch.amp.GradScaler("cpu", **options))
    assert scales == expected_scales
    assert_equal(masters, expected)
    assert scales[0] == 2.0**18  # a gradient of more than 1/8 times 2^19 is too large
    assert all(map(math.isfinite, torch.cat([m.flatten() for m in masters]).tolist()))
    assert any(later > earlier for earlier, later in pairwise(scales))


def test_an_overflow_does_not_stay_in_the_masters():
    """A training loop may clear the model's gradients only; those of the masters are not there."""
    options = {"init_scale": 2.0**19, "growth_interval": 4}
    scales, masters = scaled_run(LossScaler(**options), model_zero_grad=True)
    expected_scales, expected = scaled_run(LossScaler(**options))
    assert scales == expected_scales
    assert_equal(masters, expected)


def test_what_it_refuses():
    weight = nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer = MasterWeights(torch.optim.SGD, [weight], lr=0.1)
    with pytest.raises(TypeError, match=r"expected step\(\) without a closure, got one"):
        optimizer.step(lambda: 0.0)
    with pytest.raises(TypeError, match=r"expected floating-point parameters, got torch\.int64"):
        MasterWeights(torch.optim.SGD, [torch.ones(2, dtype=torch.int64)], lr=0.1)
    with pytest.raises(TypeError, match="optimizer_class: expected a subclass of Optimizer"):
        MasterWeights(nn.Linear, [weight])
    with pytest.raises(ValueError, match=r"shapes \[\(2,\)\], got None"):
        optimizer.load_state_dict(torch.optim.SGD([weight]).state_dict())
    with pytest.raises(ValueError, match=r"shapes \[\(2,\)\], got \[\(3,\)\]"):
        optimizer.load_state_dict(optimizer.state_dict() | {"masters": [torch.ones(3)]})
