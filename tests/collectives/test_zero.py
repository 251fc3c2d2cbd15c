"""ZeroOptimizer against the plain optimizer, torch's ZeroRedundancyOptimizer and counted bytes."""

import math
import pickle

import pytest
import torch
from torch.testing import assert_close

from companion.collectives.backward.elementwise import check_elementwise
from companion.collectives.cost.zero_memory import zero_memory_bytes
from tests.collectives import ranks_zero as ranks

RANKS = 3
TIGHT = {"atol": 1e-14, "rtol": 1e-12}


@pytest.fixture(scope="module")
def results(in_ranks):
    return [pickle.loads(cases) for cases in in_ranks(ranks.zero_cases, RANKS)]


def each(results, *names):
    for case in results:
        for name in names:
            case = case[name]
        yield case


def assert_same_bits(states):
    first, *others = states
    for other in others:
        for name, expected in first.items():
            assert torch.equal(other[name], expected), name


# Steps


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("name", ranks.OPTIMIZERS)
def test_plain_optimizer_on_the_whole_batch(results, name, stage):
    for of_rank in each(results, "steps", (name, stage)):
        for key, expected in of_rank["plain"].items():
            assert_close(of_rank["ours"][key], expected, **TIGHT)
            assert (expected - ranks.net().state_dict()[key]).abs().max() > 1e-3
    assert_same_bits([of_rank["ours"] for of_rank in each(results, "steps", (name, stage))])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_torchs_zero_redundancy_optimizer(results, name):
    for of_rank in results:
        for key, expected in of_rank["peer"][name].items():
            assert_close(of_rank["steps"][name, 1]["ours"][key], expected, **TIGHT)


@pytest.mark.parametrize("stage", [1, 2])
def test_groups_and_schedulers(results, stage):
    for of_rank in each(results, "groups", stage):
        assert of_rank["rates"] == [0.05 / 2**ranks.STEPS, 0.01 / 2**ranks.STEPS]
        for key, expected in of_rank["plain"].items():
            assert_close(of_rank["ours"][key], expected, **TIGHT)


@pytest.mark.parametrize("stage", [1, 2])
def test_parameters_without_a_gradient_are_skipped(results, stage):
    for of_rank in each(results, "skipped", stage):
        for key, expected in of_rank["plain"].items():
            assert_close(of_rank["ours"][key], expected, **TIGHT)
        untouched = ranks.Branches().state_dict()["layers.c.weight"]
        assert torch.equal(of_rank["ours"]["layers.c.weight"], untouched)


def test_after_data_parallel(results):
    for of_rank in results:
        expected = of_rank["steps"]["adam", 1]["plain"]
        for key, weight in of_rank["after_data_parallel"]["ours"].items():
            assert_close(weight, expected[key], **TIGHT)
        refused = of_rank["after_data_parallel"]["stage 2"]
        # Two threads want the group at once: whoever comes first decides how the others notice.
        assert refused.startswith(
            ("RuntimeError: expected no gradient outside ZeroOptimizer in", "CollectiveMismatch: ")
        )


def test_several_backwards_of_stage_2_add_up(results):
    for of_rank in each(results, "accumulated"):
        assert of_rank["unchanged"]
        for key, expected in of_rank["plain"].items():
            assert_close(of_rank["ours"][key], expected, **TIGHT)


def test_starts_from_rank_0(results):
    assert_same_bits([dict(ranks.net(seed=0).named_parameters()), *each(results, "start")])


# State


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_state_is_that_of_the_plain_optimizer(results, name):
    for saved in each(results, "state", name):
        ours, plain = saved["ours"], saved["plain"]
        assert ours["param_groups"] == plain["param_groups"]
        assert ours["state"].keys() == plain["state"].keys()
        for number, expected in plain["state"].items():
            assert ours["state"][number].keys() == expected.keys()
            for key, value in expected.items():
                assert_close(ours["state"][number][key], value, **TIGHT)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_continued_from_a_state(results, name):
    for saved in each(results, "state", name):
        whole, same_parts, other_parts, into_plain, alone = saved["weights"]
        assert_same_bits([whole, same_parts])
        for key, expected in alone.items():
            for continued in (whole, other_parts, into_plain):
                assert_close(continued[key], expected, **TIGHT)


# Memory


@pytest.mark.parametrize("stage", [1, 2])
def test_bytes_on_a_rank_are_those_predicted(results, stage):
    """Adam in fp32: 4 bytes of weight, 4 of gradient, 8 of state. Live tensors are counted."""
    width, height = ranks.SIZES
    weights = width * height + height
    predicted = zero_memory_bytes(
        weights,
        ranks=RANKS,
        stage=stage,
        weight_bytes=4,
        gradient_bytes=4,
        optimizer_bytes=8,
    )
    part = math.ceil(weights / RANKS)
    padding = 4 * (RANKS * part - weights)
    for after_backward, counted, after_step in each(results, "memory", stage):
        # Two pieces at most, each with a step counter of 4 bytes and 8 for what is padding.
        slack = padding + 2 * 4
        assert predicted - 8 * 2 <= after_backward <= predicted + slack
        assert predicted - 8 * 2 <= sum(counted) <= predicted + slack
        gradients = 4 * (part if stage == 2 else weights)
        assert counted[1] == gradients
        assert after_backward - after_step == gradients


def test_mixed_precision_takes_2_2_and_12_bytes(results):
    count = sum(p.numel() for p in ranks.net().parameters())
    for weights, gradients, optimizer in each(results, "mixed", "memory"):
        assert gradients == 2 * count
        assert 2 * count <= weights <= 2 * count + 2 * 3 * RANKS  # at most 3 buckets' padding
        pieces = optimizer / (count / RANKS)
        assert 12 <= pieces < 12 * 1.1 + 1


def test_mixed_precision_by_hand(results):
    """The plain Adam on fp32 copies, fed with the ranks' averaged bf16 gradients."""
    cases = list(each(results, "mixed"))
    start = [p.detach() for p in ranks.net(dtype=torch.bfloat16).parameters()]
    copies = [torch.nn.Parameter(p.float()) for p in start]
    optimizer = torch.optim.Adam(copies, **ranks.OPTIMIZERS["adam"][1])
    for step in range(ranks.STEPS):
        for i, parameter in enumerate(copies):
            of_ranks = [case["gradients"][step][i].float() for case in cases]
            parameter.grad = torch.stack(of_ranks).mean(0)
        optimizer.step()
    for case in cases:
        for got, again, weight, expected in zip(
            case["master"], case["again"], case["weights"], copies, strict=True
        ):
            # bf16 sums on the way: 8 bits of each gradient, and steps of at most lr = 0.01.
            assert_close(got, expected.detach(), atol=2e-3, rtol=0)
            assert got.dtype == torch.float32
            assert torch.equal(weight, got.bfloat16())
            assert torch.equal(again, got)


def test_stage_2_never_holds_a_full_gradient(results):
    count = sum(p.numel() for p in ranks.net().parameters())
    for alive, held_bytes in each(results, "live"):
        assert alive == [0] * 6
        assert 8 * count / RANKS <= held_bytes <= 8 * (count / RANKS + 4)


def test_seven_and_a_half_billion_weights_on_64_ranks():
    """Rajbhandari et al. 2020, Figure 1."""
    gigabytes = [zero_memory_bytes(7.5e9, ranks=64, stage=stage) / 1e9 for stage in range(4)]
    assert [round(size, 1) for size in gigabytes] == [120, 31.4, 16.6, 1.9]
    assert zero_memory_bytes(10, ranks=4, stage=1) == 4 * 10 + 12 * 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ranks": 0, "stage": 1}, "ranks must be at least 1, got 0"),
        ({"ranks": 2, "stage": 4}, "stage must be in \\[0, 3\\], got 4"),
    ],
)
def test_memory_of_nothing_possible(settings, said):
    with pytest.raises(ValueError, match=said):
        zero_memory_bytes(1, **settings)
    with pytest.raises(ValueError, match=r"parameters must be .* of at least 0, got -1"):
        zero_memory_bytes(-1, ranks=1, stage=0)


# Refusals


def test_messages(results):
    for errors in each(results, "errors"):
        assert errors["closure"].startswith("TypeError: expected no closure")
        assert errors["group"].startswith("RuntimeError: expected all parameter groups when")
        assert errors["load"] == "ValueError: expected groups of [6] parameters, got [1]"
        assert errors["sparse"].startswith("TypeError: expected a dense gradient")
        assert errors["stage"] == "ValueError: stage must be in [1, 2], got 3"
        assert errors["none"] == "ValueError: optimizer got an empty parameter list"
        assert errors["ranks"] == (
            "ValueError: expected the same parameters on all ranks, got number 0 (4,) "
            "torch.float32 on rank 2 where rank 0 has number 0 (3,) torch.float32"
        )
        assert errors["moved"].startswith("RuntimeError: expected the parameter of shape")
        for name in ("LBFGS", "Adafactor", "Muon", "SparseAdam"):
            assert errors[name].startswith(
                "ValueError: expected an optimizer that treats every element by itself"
            )
            assert f"got {name}, which" in errors[name]
    shapes = {errors["load shape"] for errors in each(results, "errors")}
    assert "ValueError: expected a state of shape (7, 5), got (3, 3)" in shapes


ELEMENTWISE = "ASGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD"


@pytest.mark.parametrize("name", ELEMENTWISE.split())
def test_elementwise_optimizers_are_welcome(name):
    check_elementwise(getattr(torch.optim, name), {"lr": 0.0})  # as at the start of a warm-up


def test_a_norm_over_the_parameter_is_noticed():
    class Normalised(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad /= parameter.grad.norm()
            return super().step(closure)

    with pytest.raises(ValueError, match="got Normalised, which moves a matrix in another way"):
        check_elementwise(Normalised, {"lr": 1e-9})
