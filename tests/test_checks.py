"""Arguments that are not what they should be: each is named, with what was expected and came."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from companion.checks import check_count, check_finite, check_number, check_tensor, typed
from companion.gan.samples import gaussian_ring, ring_centres
from companion.lora import add_lora, lora_plus_groups, random_similarity
from companion.wasserstein import gradient_penalty, lipschitz_estimate, soft_c_transform
from companion.wasserstein.spectral import SpectralNorm
from companion.wasserstein.updates import critic_steps_at

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [1, 7, np.int64(3), 10**30])
def test_counts(value):
    check_count("n", value)


@pytest.mark.parametrize("value", [0.5, 0, -3, 1e308, np.float32(2), np.int32(4)])
def test_numbers(value):
    check_number("x", value)
    check_number("x", value, least=-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_count("n", 0), ValueError, "n must be at least 1, got 0"),
        (lambda: check_count("n", 9, most=8), ValueError, "n must be in [1, 8], got 9"),
        (lambda: check_count("n", True), TypeError, "n: expected an integer, got True"),
        (lambda: check_count("n", 2.0), TypeError, "n: expected an integer, got 2.0"),
        (lambda: check_number("x", "1"), TypeError, "x: expected a number, got '1'"),
        (lambda: check_number("x", None), TypeError, "x: expected a number, got None"),
        (lambda: check_number("x", 1j), TypeError, "x: expected a number, got 1j"),
        (lambda: check_number("x", INF), ValueError, "x must be a finite number, got inf"),
        (lambda: check_number("x", 0, above=0), ValueError, "finite number more than 0, got 0"),
        (lambda: check_number("x", -1, least=0), ValueError, "number of at least 0, got -1"),
        (lambda: check_tensor("x", None), TypeError, "x: expected a tensor, got NoneType"),
        (lambda: check_tensor("x", torch.arange(2)), TypeError, "numbers, got torch.int64"),
        (lambda: check_finite("x", torch.tensor(NAN)), ValueError, "x: expected finite numbers"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


HALF, COST = torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
POINTS = torch.tensor([[0.0], [1.0]])


def adapted():
    return add_lora(nn.Sequential(nn.Linear(8, 4)), targets=["0"], rank=2, alpha=4.0)


def critic(x):
    return x[:, 0]


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, NAN, INF, 1j, "1", None])
def test_soft_c_transform_refuses(epsilon):
    with pytest.raises((TypeError, ValueError), match="epsilon"):
        soft_c_transform(torch.zeros(2), HALF, COST, epsilon=epsilon)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (POINTS * NAN, POINTS, "x"),
        (POINTS, torch.tensor([[0.0], [INF]]), "y"),
        ([[0.0]], POINTS, "x"),
        (POINTS.long(), POINTS, "x"),
    ],
)
def test_lipschitz_estimate_refuses(x, y, name):
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
        lipschitz_estimate(critic, x, y)


def test_lipschitz_estimate_of_a_critic_that_fails():
    with pytest.raises(ValueError, match="slopes: expected finite numbers"):
        lipschitz_estimate(lambda x: x[:, 0] / 0, POINTS, POINTS)


@pytest.mark.parametrize("iterations", [-1, 0, "x", None, 1.0])
def test_spectral_norm_refuses(iterations):
    with pytest.raises((TypeError, ValueError), match="iterations"):
        SpectralNorm(torch.ones(2, 3), iterations=iterations)


@pytest.mark.parametrize(
    "words", [{"step": -1}, {"step": 0.5}, {"step": 0, "n_critic": 0}, {"step": 0, "warm_up": -1}]
)
def test_critic_steps_at_refuses(words):
    with pytest.raises((TypeError, ValueError), match=[*words][-1]):
        critic_steps_at(**words)


@pytest.mark.parametrize("weight", [NAN, INF, -1, "1", None])
def test_gradient_penalty_refuses(weight):
    with pytest.raises((TypeError, ValueError), match="weight"):
        gradient_penalty(critic, POINTS, POINTS, weight=weight)


@pytest.mark.parametrize("radius", [NAN, INF, -1.0, None])
def test_the_ring_refuses(radius):
    with pytest.raises((TypeError, ValueError), match="radius"):
        ring_centres(radius=radius)
    with pytest.raises((TypeError, ValueError), match="radius"):
        gaussian_ring(3, radius=radius)
    with pytest.raises((TypeError, ValueError), match="std"):
        gaussian_ring(3, std=radius)


@pytest.mark.parametrize(
    "words", [{"lr": INF}, {"lr": "1"}, {"weight_decay": -1.0}, {"ratio": NAN}]
)
def test_lora_plus_groups_refuses(words):
    with pytest.raises((TypeError, ValueError), match=next(iter(words))):
        lora_plus_groups(adapted(), **{"lr": 1e-3, "ratio": 2.0} | words)


@pytest.mark.parametrize("width", [INF, NAN, 0, 8.0, None])
def test_random_similarity_refuses(width):
    with pytest.raises((TypeError, ValueError), match="width"):
        random_similarity(1, 1, width)


@typed
def everything(
    width: int,
    rate: float = 0.5,
    x: Float[Tensor, "n"] | None = None,
    counts: Int[Tensor, "n"] | None = None,
    layer: nn.Linear | None = None,
    names: Sequence[str] = (),
    call: Callable[[], object] | None = None,
    mode: Literal["a", "b"] = "a",
    whether: bool = False,
    delays: Mapping[int, float] | None = None,
    kind: type[nn.Linear] = nn.Linear,
) -> str:
    """Takes one of each kind."""
    return f"{width} {mode} {whether}"


def test_typed_lets_pass_what_it_says():
    assert everything(np.int64(3), 2, torch.ones(2), mode="b", whether=True) == "3 b True"
    named = {
        "names": {"a"},
        "delays": {3: 1},
        "counts": torch.ones(2, dtype=torch.int32),
        "call": print,
    }
    assert everything(width=3, layer=nn.Linear(2, 3), **named) == "3 a False"
    assert everything.__doc__ == "Takes one of each kind."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 2.0}, "width: expected an integer, got 2.0"),
        ({"width": True}, "width: expected an integer, got True"),
        ({"rate": "1"}, "rate: expected a number, got '1'"),
        ({"rate": None}, "rate: expected a number, got None"),
        ({"x": [1.0]}, "x: expected a tensor of floating-point numbers or None, got list"),
        ({"x": np.ones(2)}, "numbers or None, got ndarray of float64"),
        ({"x": torch.ones(2, dtype=torch.int64)}, "or None, got Tensor of torch.int64"),
        ({"counts": torch.ones(2)}, "a tensor of integers or None, got Tensor of torch.float32"),
        ({"layer": nn.Conv2d(2, 3, 1)}, "layer: expected nn.Linear or None, got Conv2d"),
        ({"names": 3}, "names: expected a sequence (each a string), got 3"),
        ({"names": "ab"}, "names: expected a sequence (each a string), got one string: ['ab']?"),
        ({"names": ["a", 1.0, 2]}, "(each a string), got list with str, float, int"),
        ({"names": {"a": 1}}, "(each a string), got dict"),
        ({"delays": {"a": 1.0}}, "(of an integer to a number) or None, got dict"),
        ({"delays": [1.0]}, "(of an integer to a number) or None, got list with float"),
        ({"kind": nn.Conv2d}, "kind: expected a subclass of nn.Linear, got class Conv2d"),
        ({"kind": 3}, "kind: expected a subclass of nn.Linear, got 3"),
        ({"call": "print"}, "call: expected Callable or None, got 'print'"),
        ({"mode": None}, "mode: expected a string, got None"),
        ({"whether": 1}, "whether: expected bool, got 1"),
    ],
)
def test_typed_names_what_is_of_another_kind(arguments, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        everything(**{"width": 3, **arguments})


def test_typed_leaves_missing_and_unknown_arguments_to_python():
    with pytest.raises(TypeError, match="missing a required argument: 'width'"):
        everything()
