"""The parts that need no ranks: operations, segments, headers."""

import threading
from functools import partial

import pytest
import torch

from companion.collectives.agreement import HEADER_BYTES, Header
from companion.collectives.wire.calls import calls_of
from companion.collectives.wire.chunks import segments
from companion.collectives.wire.reduction import Op


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sum", [-1.0, 7.0]), ("mean", [-1.0, 7.0]), ("prod", [-6.0, 10.0]), ("max", [2.0, 5.0])],
)
def test_combine_by_hand(name, expected):
    own = torch.tensor([2.0, 5.0])
    Op(name).combine_(own, torch.tensor([-3.0, 2.0]))
    assert own.tolist() == expected


@pytest.mark.parametrize("name", ["max", "min"])
def test_nan_wins_from_either_side(name):
    nan = float("nan")
    own = torch.tensor([nan, 1.0, 2.0])
    Op(name).combine_(own, torch.tensor([1.0, nan, 2.0]))
    assert own.isnan().tolist() == [True, True, False]


def test_only_the_mean_divides_at_the_end():
    for name, expected in {"sum": 12.0, "mean": 3.0, "prod": 12.0, "max": 12.0}.items():
        total = torch.tensor([12.0])
        Op(name).finish_(total, ranks=4)
        assert total.item() == expected
        Op(name).adding.finish_(total, ranks=4)
        assert total.item() == expected


def test_sums_are_rounded_to_the_dtype():
    own = torch.tensor([2048.0], dtype=torch.float16)
    Op("sum").combine_(own, torch.tensor([1.0], dtype=torch.float16))
    assert own.item() == 2048.0  # 2049 lies between two numbers of fp16, and ties go to even


@pytest.mark.parametrize(
    ("op", "dtype"),
    [("sum", torch.bool), ("mean", torch.int32), ("max", torch.complex64), ("prod", torch.bool)],
)
def test_dtypes_without_a_meaning(op, dtype):
    with pytest.raises(TypeError, match=f"{op} is not defined for {str(dtype)[6:]}, only for "):
        Op(op).check(dtype)


def test_unknown_op():
    with pytest.raises(ValueError, match=r"op must be one of sum, mean, .* got 'avg'"):
        Op("avg")


@pytest.mark.parametrize(("sizes", "segment_bytes"), [((11, 10), 12), ((1, 0), 4), ((0, 0), 1)])
def test_segments_are_equally_many_small_and_complete(sizes, segment_bytes):
    chunks = [torch.arange(n, dtype=torch.float32) for n in sizes]
    cut = segments(chunks, segment_bytes=segment_bytes)
    assert len({len(pieces) for pieces in cut}) == 1
    for chunk, pieces in zip(chunks, cut, strict=True):
        assert torch.equal(torch.cat(pieces), chunk)
        assert all(piece.numel() * 4 <= segment_bytes for piece in pieces)
        assert all(piece.untyped_storage() == chunk.untyped_storage() for piece in pieces)


def test_a_segment_holds_one_element_at_least():
    (pieces,) = segments([torch.zeros(3, dtype=torch.float64)], segment_bytes=1)
    assert sum(piece.numel() for piece in pieces) == 3


def test_header_there_and_back():
    header = Header("all_reduce", "ring", "bfloat16", (3, 0, 5), "sum", "chunk_bytes=7", "", 12)
    assert len(header.encoded()) == HEADER_BYTES
    assert Header.decoded(header.encoded()) == header
    scalar = Header.of(torch.tensor(1.0), "all_reduce", "tree")
    assert Header.decoded(scalar.encoded()) == scalar


def test_a_long_header_keeps_its_length_and_its_difference():
    long, other = ((2**40,) * 63 + (last,) for last in (1, 2))
    one, two = (
        Header("all_gather", "ring", "int8", shape, problem="x|y" * 99) for shape in (long, other)
    )
    assert len(one.encoded()) == len(two.encoded()) == HEADER_BYTES
    assert one.encoded() != two.encoded()
    decoded = Header.decoded(one.encoded())
    assert decoded.shape
    assert set(decoded.shape) == {2**40}  # cut between numbers, not inside one
    assert (decoded.collective, decoded.dtype) == ("all_gather", "int8")


def test_asynchronous_calls_run_in_order_on_one_thread():
    class Group:
        """Stands for a process group: calls_of only asks which one it is."""

    group, gate, seen = Group(), threading.Event(), []

    def call(number):
        gate.wait(100)  # until all have been started
        seen.append((number, threading.get_ident()))
        return torch.tensor(number)

    calls = calls_of(group)
    handles = [calls.start(partial(call, n), torch.tensor(n)) for n in range(20)]
    gate.set()
    assert [handle.wait().item() for handle in handles] == list(range(20))
    assert [number for number, _ in seen] == list(range(20))
    assert len({thread for _, thread in seen}) == 1
