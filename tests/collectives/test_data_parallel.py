"""DataParallel against torch's DDP, one process with the whole batch, and sums by hand."""

import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from companion.collectives.backward.buckets import assign_buckets
from companion.collectives.backward.flat_parameters import starts_of
from companion.collectives.study.delayed import delayed
from tests.collectives import ranks_training as ranks
from tests.measurements import measured_again


@pytest.fixture(scope="module", params=[2, 3])
def results(request, in_ranks):
    return [pickle.loads(cases) for cases in in_ranks(ranks.data_parallel_cases, request.param)]


def each(results, case):
    return [result[case] for result in results]


def assert_same_bits(results, case):
    """All ranks have the bits of rank 0."""
    first, *others = results
    for other in others:
        assert first[case].keys() == other[case].keys()
        for name, expected in first[case].items():
            assert (expected is None) == (other[case][name] is None), name
            assert expected is None or torch.equal(expected, other[case][name]), name


# Gradients


def test_gradients_of_ddp_and_of_the_whole_batch(results):
    for of_rank in each(results, "gradients"):
        assert len(of_rank["buckets"]) > 2
        for name, gradient in of_rank["ours"].items():
            assert gradient.abs().max() > 1e-4
            assert_close(gradient, of_rank["ddp"][name], atol=1e-15, rtol=1e-12)
            assert_close(gradient, of_rank["alone"][name], atol=1e-15, rtol=1e-12)
    assert_same_bits(each(results, "gradients"), "ours")


def test_unused_parameters(results):
    """Rank 0 uses a, the others b: each counts as zero elsewhere. c stays without a gradient."""
    ranks = len(results)
    for of_rank in each(results, "unused"):
        ours, theirs = of_rank["ours"], of_rank["ddp"]
        assert ours["layers.c.weight"] is None
        assert theirs["layers.c.weight"] is None
        # Column sums of x: 2·(rank+1).
        assert_close(ours["layers.a.weight"], torch.full((3, 3), 2 / ranks).double())
        of_b = sum(2.0 * (rank + 1) for rank in range(1, ranks)) / ranks
        assert_close(ours["layers.b.weight"], torch.full((3, 3), of_b).double())
        for name in ("layers.a.weight", "layers.a.bias", "layers.b.weight", "layers.b.bias"):
            assert_close(ours[name], theirs[name])


def test_no_sync_adds_up_and_ends(results):
    size = len(results)
    x, y = ranks.batch(3 * size)
    whole = ranks.net()
    ranks.backward(whole, x, y)  # mean over all; three parts add up to three times that
    first = ranks.net()
    rows = torch.arange(12 * size).view(size, 3, 4)
    ranks.backward(first, x[rows[:, 0]].flatten(0, 1), y[rows[:, 0]].flatten(0, 1))
    for of_rank in each(results, "accumulated"):
        for name, local in of_rank["local"].items():
            assert torch.equal(of_rank["before"][name], local)
            assert_close(of_rank["sum"][name], 3 * ranks.grads(whole)[name])
            assert_close(of_rank["after"][name], ranks.grads(first)[name])
    assert_same_bits(each(results, "accumulated"), "sum")


def test_gradients_that_no_sync_left_in_an_unused_layer(results):
    size = len(results)
    mean = sum(2.0 * (rank + 1) for rank in range(size)) / size
    for gradients in each(results, "leftover"):
        assert_close(gradients["layers.a.weight"], torch.full((3, 3), mean).double())
        assert_close(gradients["layers.b.weight"], torch.full((3, 3), mean).double())
        assert gradients["layers.c.weight"] is None


def test_buckets_that_fill_in_another_order(results):
    """Layer a is called first on rank 0 and last on the others; its input is 1, 2 or 3 times x."""
    others = len(results) - 1
    expected = {"a": (1 + 3 * others), "b": 2 * (1 + others), "c": (3 + others)}
    for gradients in each(results, "order"):
        for name, total in expected.items():
            weight = torch.full((3, 3), 2 * total / (1 + others)).double()
            assert_close(gradients[f"layers.{name}.weight"], weight)


def test_several_dtypes(results):
    mean = (len(results) + 1) / 2
    for *gradients, buckets in each(results, "dtypes"):
        assert buckets == 4
        for gradient in gradients:
            assert gradient.tolist() == [mean] * 3


def test_frozen_parameters_have_no_gradient(results):
    x, y = ranks.batch(1)
    alone = ranks.net()
    ranks.backward(alone, x, y)
    for gradients in each(results, "frozen"):
        without = [name for name, gradient in gradients.items() if gradient is None]
        assert without == ["0.weight", "0.bias"]
        assert_close(gradients["2.weight"], alone[2].weight.grad)


@pytest.mark.parametrize("name", ranks.REDUCES)
def test_any_all_reduce(results, name):
    x, y = ranks.batch(1)
    total = {}
    for rank in range(len(results)):
        alone = ranks.net()
        ranks.backward(alone, x * (rank + 1), y)
        for key, gradient in ranks.grads(alone).items():
            total[key] = total.get(key, 0) + gradient / len(results)
    for of_rank in each(results, "reduces"):
        assert_close(of_rank[name], total)


# Start, timeline, end


def test_starts_from_rank_0(results):
    expected = ranks.net(seed=0).state_dict()
    for state in each(results, "start"):
        for name, value in expected.items():
            assert torch.equal(state[name], value), name
        assert state["mean"].tolist() == [0, 0, 0]
        assert state["count"].item() == 0
        assert state["flags"].tolist() == [True, False]
        assert torch.equal(state["strided"], torch.zeros(2, 3))
        assert state["later"].tolist() == [5, 5, 5]


def test_timeline(results):
    """A bucket leaves when it is computed; all but the last travel while backward computes."""
    for spans in each(results, "spans"):
        compute, reduce, (wait,) = (
            [span[1:] for span in spans if span[0] == kind]
            for kind in ("compute", "reduce", "wait")
        )
        assert [bucket for bucket, *_ in compute] == [bucket for bucket, *_ in reduce] == [0, 1, 2]
        for (_, begin_s, end_s), (_, sent_s, arrived_s) in zip(compute, reduce, strict=True):
            assert end_s - begin_s > 0.9 * ranks.LAYER_S
            assert sent_s >= end_s
            assert arrived_s - sent_s > 0.009
        assert reduce[0][1] < compute[2][2]
        assert wait[2] >= reduce[2][2] >= wait[1] + 0.009


@pytest.mark.slow
@measured_again
def test_overlap_hides_the_slow_link(in_ranks):
    """8 layers of 0.03 s, a link of 0.03 s for each: 0.48 s in a row, 0.27 s overlapped."""
    for measured in in_ranks(ranks.overlap, 2):
        assert measured.serial_s > 0.47
        assert 0.26 < measured.overlapped_s < measured.serial_s
        for spans, buckets in ((measured.serial_spans, 1), (measured.overlapped_spans, 8)):
            compute, reduce = (
                [span for span in spans if span.kind == kind] for kind in ("compute", "reduce")
            )
            assert (len(compute), len(reduce), len(spans)) == (buckets, buckets, 2 * buckets + 1)
            # Half of the buckets, if not all but one, leave while backward computes.
            early = [span for span in reduce if span.start_s < compute[-1].end_s]
            assert buckets // 2 <= len(early) < buckets


def test_messages(results):
    at_rank_1 = (
        "ValueError: expected the same parameters on all ranks, "
        "got {} on rank 1 where rank 0 has {}"
    )
    weight = "weight ({}, 3) torch.float32"
    bias = "bias (4,) torch.float32"
    for errors in each(results, "errors"):
        assert errors["shape"] == at_rank_1.format(weight.format(5), weight.format(4))
        assert errors["missing"] == at_rank_1.format("no parameter", bias)
        assert (
            errors["nothing"] == "ValueError: expected a module with parameters to train, got none"
        )
        assert errors["bucket_bytes"] == "ValueError: bucket_bytes must be at least 1, got 0"
        assert errors["sparse"].startswith(
            "TypeError: expected a dense gradient for the parameter of shape (5, 2), got"
        )
        assert errors["unfrozen"].startswith("RuntimeError: expected bias to stay frozen")
        assert errors["raises"] == "OSError: cable cut"


def test_nothing_is_left_behind(results):
    for rank, (threads, has_gradient) in enumerate(each(results, "gone")):
        assert threads == []
        assert has_gradient == (rank == 0)


def test_a_backward_that_stopped_half_way(results):
    for broken, following in each(results, "half_way"):
        assert broken == "ArithmeticError: in the middle"
        assert following.startswith("RuntimeError: expected the earlier backward to have ended")


def test_a_lost_rank_is_reported_within_the_timeout(results):
    for said, took_s in each(results, "lost")[:-1]:
        assert said.startswith("PeerLost: ")
        assert took_s < 2 * ranks.LOST_AFTER_S  # once, not once for every bucket


# Parts


def test_buckets_by_hand():
    sizes = (3, 1, 4, 1, 5, 9, 2, 6)
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    buckets = assign_buckets(parameters, bucket_bytes=4 * 8, first_bucket_bytes=4 * 7)
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[6, 2], [9], [5, 1, 4], [1, 3]]
    parameters[4] = nn.Parameter(torch.zeros(5, dtype=torch.float16))
    buckets = assign_buckets(parameters, bucket_bytes=4 * 8, first_bucket_bytes=4 * 7)
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[6, 2], [9], [1, 4, 1, 3], [5]]


def test_starts_by_hand():
    assert starts_of([torch.zeros(2, 3), torch.zeros(()), torch.zeros(0)]) == [0, 6, 7, 7]


def test_delays_are_not_negative():
    with pytest.raises(ValueError, match="alpha_s must be a finite number in"):
        delayed(print, alpha_s=-1)
    with pytest.raises(ValueError, match="beta_s_per_byte must be a finite number in"):
        delayed(print, beta_s_per_byte=float("nan"))
