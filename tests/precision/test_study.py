"""What the chapter stands on: the written-out backward, short sums, counts, pictures."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from companion.data import digits
from companion.precision import BF16, FP16, FloatFormat, MasterWeights
from companion.precision.study import repairs, text_run
from companion.precision.study.bit_frames import BitFrames
from companion.precision.study.figures import (
    draw_dose_response,
    draw_gradient_histogram,
    draw_losses,
    draw_number_line,
    draw_repairs,
    draw_scale_path,
    draw_weight_paths,
)
from companion.precision.study.gradient_histogram import LOWEST, exponent_counts
from companion.precision.study.matmul import matmul_with_short_sums
from companion.precision.study.repairs import VARIANTS, Arithmetic, lost_updates, train_digits
from companion.precision.study.scale_path import ScalePaths, scale_path
from companion.precision.study.text_run import continue_text, held_out_loss, train_text

pytestmark = pytest.mark.usefixtures("no_window")


def test_written_out_step_is_autograds():
    """Two steps in float32, and the copies drop out: a mean over equal samples is the mean."""
    images, labels = digits()
    x_BD = images[:1500].flatten(1).float()
    weights = [weight.requires_grad_() for weight in repairs._initial(2, 8)]
    losses = []
    for _ in range(2):
        first, bias, second, last_bias = weights
        hidden = torch.relu(x_BD @ first + bias)
        logits = hidden @ second + last_bias
        loss_E = torch.stack([F.cross_entropy(each, labels[:1500]) for each in logits])
        losses.append(loss_E.detach())
        for weight, gradient in zip(
            weights, torch.autograd.grad(loss_E.sum(), weights), strict=True
        ):
            weight.data -= 0.5 * gradient
    for copies in (1, 64):
        run = train_digits(
            Arithmetic(), seeds=2, steps=2, learning_rate=0.5, hidden=8, copies=copies
        )
        assert run.loss == pytest.approx(torch.stack(losses), abs=1e-5)


def test_each_repair_by_its_trace():
    """After few steps: what vanishes, what is skipped, what moves."""
    few = {"steps": 3, "copies": 4096}
    assert train_digits(VARIANTS["FP16, no loss scale"], **few).vanished == pytest.approx(
        0.9, abs=0.01
    )
    assert train_digits(VARIANTS["FP16, all three repairs"], **few).vanished == 0
    overflowing = Arithmetic(FP16, loss_scale=2.0**40)
    run = train_digits(overflowing, steps=3)
    assert run.skipped == 3
    assert torch.equal(run.loss[0], run.loss[2])
    still = train_digits(Arithmetic(BF16, master_weights=False), steps=3, learning_rate=1e-9)
    assert torch.equal(still.loss[0], still.loss[2])
    assert lost_updates(BF16, 1e-9) == 1
    assert lost_updates(FP16, 0.03) < lost_updates(BF16, 0.03)


def test_short_sums_are_numpys():
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(-99, 100, (3, 17), generator=generator) / 64
    b = torch.randint(-99, 100, (17, 2), generator=generator) / 64
    products = (a[:, :, None] * b[None]).numpy()
    total = np.zeros((3, 2), dtype=np.float16)
    for k in range(17):
        total = (total.astype(np.float32) + products[:, k]).astype(np.float16)
    assert torch.equal(matmul_with_short_sums(a, b, FP16), torch.from_numpy(total).float())
    assert torch.equal(matmul_with_short_sums(a, b, FP16, block=17), FP16.round(a @ b))
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        matmul_with_short_sums(a, b, FP16, block=0)


def test_exponents_by_hand():
    gradients = [torch.tensor([0.0, 1.0, -1.5, 2.0]), torch.tensor([[2.0**-25, 2.0**-149, 1e30]])]
    counts = exponent_counts(gradients)
    seen = {i + LOWEST: n for i, n in enumerate(counts.tolist()) if n}
    assert seen == {-149: 2, -25: 1, 0: 2, 1: 1, 20: 1}


def test_scale_halves_at_the_wall_and_doubles_after_the_interval():
    path = scale_path([2.0] * 8, growth_interval=3)
    assert [math.log2(scale) for scale in path.scales] == [16, 15, 14, 14, 14, 15, 14, 14]
    assert path.overflowed == [True, True, False, False, False, True, False, False]
    words = ScalePaths([5, 20]).describe(20)
    assert "doubles after 20 good steps" in words


def test_small_steps_need_masters_and_a_scale():
    start = train_text(steps=30)
    before = held_out_loss(start)
    bfloat, half = torch.bfloat16, torch.float16

    def run(*, steps=8, **how):
        return continue_text(start, steps=steps, **how)

    exact, many = run(), run(copies=4096)
    assert 0.004 < before - exact.loss < 0.02
    assert exact.moved > 0.99
    assert exact.vanished < 0.01
    assert many.loss == pytest.approx(exact.loss, abs=5e-5)  # a mean over equal batches
    short = run(autocast=bfloat)
    assert short.loss == pytest.approx(exact.loss, abs=3e-4)
    assert short.loss != exact.loss

    exact_20, lossy_20 = run(steps=20), run(weights=bfloat, steps=20)
    assert lossy_20.loss > exact_20.loss + 4e-3
    repaired_20 = run(weights=bfloat, masters=True, steps=20)
    assert repaired_20.loss == pytest.approx(exact_20.loss, abs=1.5e-3)
    assert lossy_20.moved < 0.92 < repaired_20.moved
    tiny = {"weights": bfloat, "learning_rate": 1e-6}  # far less than a gap
    assert run(**tiny, masters=True).moved < 0.03 < run(**tiny, stochastic=True).moved

    small = run(weights=half, masters=True, copies=4096)
    scaled = run(weights=half, masters=True, copies=4096, loss_scale=2.0**12)
    assert small.vanished > 0.3 > 0.01 > scaled.vanished
    assert small.moved < 0.8 < scaled.moved
    assert scaled.loss == pytest.approx(exact.loss, abs=3e-4)
    assert abs(small.loss - exact.loss) > 5e-4
    assert held_out_loss(start) == before  # the start stays as it was


def test_adam_in_half_precision_breaks_by_its_epsilon():
    start = train_text(steps=2)
    broken = continue_text(start, weights=torch.float16, steps=3)
    assert math.isnan(broken.loss)
    assert math.isnan(broken.moved)  # the run is over
    assert math.isfinite(continue_text(start, weights=torch.float16, epsilon=1e-4, steps=3).loss)


def test_dice_leave_nothing_but_the_rounded_weights():
    model = torch.nn.Linear(50, 50, bias=False).to(torch.bfloat16)
    optimizer = MasterWeights(torch.optim.SGD, model.parameters(), lr=0.1)
    with torch.no_grad():
        optimizer.masters[0].fill_(1 + 2**-9)  # a quarter of the way to the next number
    text_run._round_by_dice(model, optimizer, torch.Generator().manual_seed(0))
    up = (model.weight == 1 + 2**-7).float().mean().item()
    assert 0.2 < up < 0.3
    assert torch.equal(optimizer.masters[0], model.weight.float())


def test_held_out_text_is_not_trained_on(monkeypatch):
    monkeypatch.setattr(text_run, "_text", lambda: torch.arange(1000))
    generator = torch.Generator().manual_seed(0)
    train = text_run._windows(generator, count=2000)
    held_out = text_run._windows(generator, count=2000, held_out=True)
    assert (train.min(), train.max()) == (0, 899)
    assert (held_out.min(), held_out.max()) == (900, 999)
    assert train.shape == (2000, 33)


def test_bits_are_named_and_counted():
    bits = BitFrames([0.1, 500.0])
    assert bits.describe(500.0) == "500 is FP32 500, FP16 500, BF16 500, E5M2 512, E4M3 nan."
    shown = [text.get_text() for text in bits.draw(0.1).axes[0].texts]
    assert sum(text in "01" for text in shown) == 32 + 16 + 16 + 8 + 8
    assert "0.09997559, error 2e-04" in shown


def test_pictures_show_their_numbers():
    toy = draw_number_line(FloatFormat(3, 2))
    marks = [len(line.get_xdata()) for line in toy.axes[0].lines]
    assert marks == [3, *[4] * 6]
    counts = exponent_counts([torch.tensor([1.0, 2.0, 2.0, 2.0**-30])])
    bars = draw_gradient_histogram({"all": counts}).axes[0].containers[0]
    assert sorted(bar.get_height() for bar in bars)[-3:] == [25, 25, 50]
    accuracies = {"FP32": [0.8, 0.9], "FP16, no repair": [0.1, 0.3]}
    (axes,) = draw_repairs(accuracies, label="share", limit=1, mark=(0.1, "chance")).axes
    assert [bar.get_width() for c in axes.containers for bar in c] == pytest.approx([0.85, 0.2])
    assert list(axes.lines[-1].get_xdata()) == [0.1, 0.1]
    (axes,) = draw_losses({"a": torch.tensor([[1.0, 3.0], [0.5, 0.7]])}).axes
    assert axes.lines[0].get_ydata() == pytest.approx([2.0, 0.6])
    left, right = draw_dose_response([1, 10], [[0.8, 0.6], [0.1, 0.1]], [0.0, 1.0]).axes
    assert left.lines[0].get_ydata() == pytest.approx([0.7, 0.1])
    assert list(right.lines[0].get_ydata()) == [0.0, 1.0]
    (axes,) = draw_weight_paths({"a": [1.0, 0.5]}).axes
    assert list(axes.lines[0].get_ydata()) == [1.0, 0.5]
    (axes,) = draw_scale_path([4.0, 2.0], [True, False]).axes
    assert axes.lines[1].get_ydata().tolist() == [2.0]
