"""LossScaler beside torch.amp.GradScaler, step by step; its bounds, its refusals, its ranks."""

import math
import random

import pytest
import torch
from torch import nn

from companion.precision import LossScaler
from companion.processes import launch
from tests.precision.ranks_scaler import steps_of_rank


def script(steps, seed=0):
    """Per step and optimizer: the gradient's factor, a value planted in it, unscale_ by hand."""
    draw = random.Random(seed)
    return [
        [
            (
                draw.gauss(0, 1),
                draw.choice([math.inf, -math.inf, math.nan]) if draw.random() < 0.047 else None,
                draw.random() < 0.5,
            )
            for _ in range(2)
        ]
        for _ in range(steps)
    ]


def optimizers(fused=False):
    made = []
    for shape in ((3,), (2, 5)):
        weights = [nn.Parameter(torch.ones(shape)), nn.Parameter(torch.full((7,), 0.5))]
        made.append(torch.optim.SGD(weights, lr=0.01, momentum=0.9))
    if fused:
        made[1] = torch.optim.AdamW(made[1].param_groups[0]["params"], lr=0.01, fused=True)
    return made


def follow(scaler, events, trained):
    """The scale after each step; the optimizers' weights are changed."""
    scales = []
    for step in events:
        for optimizer, (factor, planted, by_hand) in zip(trained, step, strict=True):
            weights = optimizer.param_groups[0]["params"]
            for weight in weights:  # as the backward of scale(factor · Σ weight) would
                weight.grad = scaler.scale(torch.full_like(weight, factor))
            if planted is not None:
                weights[1].grad[4] = planted
            if by_hand:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale() if hasattr(scaler, "get_scale") else scaler.value)
    return scales


def weights_of(trained):
    return torch.cat([w.detach().flatten() for o in trained for w in o.param_groups[0]["params"]])


def torchs(growth=2.0, backoff=0.5):
    # 1024: fused optimizers divide by the scale, the others multiply by its inverse.
    options = {"growth_factor": growth, "backoff_factor": backoff, "growth_interval": 7}
    return torch.amp.GradScaler("cpu", init_scale=1024.0, **options)


def ours(growth=2.0, backoff=0.5):
    options = {"growth": growth, "backoff": backoff, "growth_interval": 7}
    return LossScaler(init_scale=1024.0, minimum=2.0**-120, maximum=None, **options)


@pytest.mark.parametrize(
    ("factors", "steps", "fused"),
    [((2.0, 0.5), 10_000, False), ((2.0, 0.5), 1000, True), ((1.7, 0.6), 1000, False)],
)
def test_the_trajectory_is_gradscalers(factors, steps, fused):
    events, mine, theirs = script(steps), optimizers(fused), optimizers(fused)
    scales = follow(ours(*factors), events, mine)
    assert scales == follow(torchs(*factors), events, theirs)
    assert torch.equal(weights_of(mine), weights_of(theirs))
    assert len(set(scales)) > 10


@pytest.mark.parametrize(("first", "second"), [(ours, ours), (ours, torchs), (torchs, ours)])
def test_a_restart_from_either_ones_state(first, second):
    """The restart falls between two growths, with settings that are not the second one's own."""
    events, whole, parts = script(200), optimizers(), optimizers()
    scales = follow(torchs(1.5, 0.75), events, whole)
    before = first(1.5, 0.75)
    follow(before, events[:101], parts)
    assert before.state_dict()["_growth_tracker"] not in (0, 7)
    after = second()
    after.load_state_dict(before.state_dict())
    assert follow(after, events[101:], parts) == scales[101:]
    assert torch.equal(weights_of(whole), weights_of(parts))


def small(value=1.0, **options):
    weight = nn.Parameter(torch.tensor([value, value]))
    return weight, torch.optim.SGD([weight], lr=0.5), LossScaler(**options)


def test_an_overflow_skips_the_step_and_halves_the_scale():
    weight, optimizer, scaler = small(init_scale=8.0)
    weight.grad = torch.tensor([8.0, math.inf])
    assert scaler.unscale_(optimizer) is False
    assert scaler.step(optimizer) is False
    scaler.update()
    assert (weight.tolist(), scaler.value) == ([1.0, 1.0], 4.0)
    weight.grad = torch.tensor([4.0, 2.0])
    assert scaler.unscale_(optimizer) is True
    assert scaler.step(optimizer) is True
    assert weight.tolist() == [0.5, 0.75]


def repeated(scaler, optimizer, weight, gradient, times):
    scales = []
    for _ in range(times):
        weight.grad = torch.full((2,), gradient)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.value)
    return scales


def test_the_scale_stays_within_its_bounds():
    weight, optimizer, scaler = small(init_scale=3.0, growth_interval=2, minimum=2.5, maximum=20.0)
    # 24 would be too large: the scale stays at 12, and does not become 20.
    assert repeated(scaler, optimizer, weight, 0.0, 8) == [3, 6, 6, 12, 12, 12, 12, 12]
    assert repeated(scaler, optimizer, weight, math.nan, 4) == [6, 3, 2.5, 2.5]
    theirs, at_the_end = (
        torch.amp.GradScaler("cpu", growth_interval=1),
        LossScaler(growth_interval=1),
    )
    for _ in range(150):
        weight.grad = torch.zeros(2)
        theirs.scale(torch.zeros(()))
        theirs.step(optimizer)
        theirs.update()
    assert theirs.get_scale() == 2.0**127  # 2 more bits, and 1/s is subnormal in float32
    assert repeated(at_the_end, optimizer, weight, 0.0, 150)[-1] == 2.0**24


def test_a_static_scale_stays_and_skips():
    weight, optimizer, scaler = small(init_scale=4.0, growth_interval=1, static=True)
    assert repeated(scaler, optimizer, weight, math.inf, 2) == [4.0, 4.0]
    assert weight.tolist() == [1.0, 1.0]
    assert repeated(scaler, optimizer, weight, 4.0, 1) == [4.0]
    assert weight.tolist() == [0.5, 0.5]


def test_scaling_keeps_shape_and_dtype():
    scaler = LossScaler(init_scale=4.0)
    for dtype in (torch.float16, torch.float32, torch.float64):
        scaled = scaler.scale(torch.full((3, 5), 0.25, dtype=dtype))
        assert (scaled.dtype, scaled.shape, scaled.unique().tolist()) == (dtype, (3, 5), [1.0])


def test_clipping_before_unscaling_clips_to_a_fraction():
    """The trap: the norm is that of s times the gradient, and s is taken out of what is left."""
    gradient, norms = torch.tensor([3.0, 4.0]), {}
    for unscale_first in (True, False):
        weight, optimizer, scaler = small(init_scale=128.0)
        scaler.scale((weight * gradient).sum()).backward()
        if unscale_first:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([weight], 1.0)
        assert scaler.step(optimizer)
        norms[unscale_first] = (1 - weight.detach()).norm().item() / 0.5
    assert norms == pytest.approx({True: 1.0, False: 1 / 128}, rel=1e-3)


def test_sparse_gradients_add_up_their_duplicates():
    """Each of the two rows is finite; their sum is not."""
    indices = torch.tensor([1, 4, 1])
    for row, finite in ((1e38, True), (2e38, False)):
        table = nn.Embedding(5, 3, sparse=True)
        before = table.weight.detach().clone()
        optimizer, scaler = torch.optim.SGD(table.parameters(), lr=0.25), LossScaler(init_scale=2.0)
        (table(indices) * row).sum().backward()
        assert scaler.step(optimizer) is finite
        expected = before.clone()
        expected.index_add_(0, indices, torch.full((3, 3), -0.25 * row / 2 if finite else 0.0))
        torch.testing.assert_close(table.weight.detach(), expected)


def test_dtypes_share_an_optimizer():
    single, double = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = torch.optim.SGD([single, double], lr=1.0)
    for planted in (None, single, double):
        scaler = LossScaler(init_scale=2.0**10)
        single.grad, double.grad = torch.full((3,), 512.0), torch.full_like(double, 256)
        if planted is not None:
            planted.grad[1] = math.nan
        assert scaler.step(optimizer) is (planted is None)
    assert (single.tolist(), double.tolist()) == ([0.5] * 3, [0.75] * 2)


def test_an_optimizer_without_gradients_does_not_hide_another_ones_overflow():
    (weight, optimizer, scaler), (other, idle, _) = small(init_scale=4.0), small()
    weight.grad = torch.full((2,), math.inf)
    assert (scaler.step(optimizer), scaler.step(idle)) == (False, True)
    scaler.update()
    assert (scaler.value, other.tolist()) == (2.0, [1.0, 1.0])


def test_ranks_agree_when_one_overflows():
    first, *others = launch(steps_of_rank, 3, [None, 1, None, 0, 2])
    stepped, scales, weights = zip(*first, strict=True)
    assert stepped == (True, False, True, False, False)
    assert scales == (64.0, 32.0, 32.0, 16.0, 8.0)
    assert weights == (-1.0, -1.0, -2.0, -2.0, -2.0)
    for rows in others:
        assert [row[:2] for row in rows] == [row[:2] for row in first]
    assert [row[2] for row in others[0]] == list(weights)


def test_each_order_of_calls_that_is_wrong_is_refused():
    weight, optimizer, scaler = small(init_scale=2.0)
    weight.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="expected unscale_ or step before update"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="got an optimizer that has already been unscaled"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="got an optimizer that has already stepped"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="one step for each update, got a second one"):
        scaler.step(optimizer)
    assert weight.tolist() == [0.75, 0.75]
    scaler.update()
    assert scaler.step(optimizer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_sixteen_bits_are_refused(dtype):
    weight = nn.Parameter(torch.ones(2, dtype=dtype))
    weight.grad = torch.ones_like(weight)
    with pytest.raises(ValueError, match=rf"32 bits or more, got {dtype}: .* MasterWeights"):
        LossScaler().unscale_(torch.optim.SGD([weight], lr=0.1))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"init_scale": 0.5},
            ValueError,
            r"init_scale must be a finite number in \[1.0, .*got 0.5",
        ),
        ({"init_scale": 2.0**25}, ValueError, r"init_scale must be .*got 33554432.0"),
        ({"init_scale": "big"}, TypeError, "init_scale: expected a number, got 'big'"),
        ({"growth": 1.0}, ValueError, "growth must be a finite number more than 1, got 1.0"),
        ({"backoff": 1.0}, ValueError, "backoff must be less than 1, got 1.0"),
        ({"backoff": 0.0}, ValueError, "backoff must be a finite number more than 0, got 0.0"),
        ({"growth_interval": 0}, ValueError, "growth_interval must be at least 1, got 0"),
        ({"minimum": 0.0}, ValueError, r"minimum must be a finite number in \(0, .*got 0.0"),
        ({"maximum": 0.5}, ValueError, r"maximum must be a finite number in \[1.0, .*got 0.5"),
        ({"maximum": 1e39}, ValueError, r"maximum must be .*got 1e\+39"),
    ],
)
def test_bad_settings(options, error, match):
    with pytest.raises(error, match=match):
        LossScaler(**options)


def test_states_of_something_else_are_refused():
    with pytest.raises(ValueError, match=r"expected the keys \['_growth_tracker', .*got \['lr'\]"):
        LossScaler().load_state_dict({"lr": 0.1})
    state = LossScaler(init_scale=4.0).state_dict()
    with pytest.raises(ValueError, match=r"scale must be a finite number in \[8.0, .*got 4.0"):
        LossScaler(minimum=8.0).load_state_dict(state)
    for name, wrong in (("growth_factor", 1.0), ("backoff_factor", 7.0), ("growth_interval", 0)):
        with pytest.raises(ValueError, match=f"{name} must be .*got {wrong}"):
            LossScaler().load_state_dict(state | {name: wrong})
