"""The workloads for a GPU, as far as a CPU can run them: small, with the same code."""

from functools import partial

import pytest
import torch

from companion.bench import flash
from companion.bench.flash import BARS, PEERS, decoding, pinned
from companion.flash.study.cost import attention_flops
from companion.measure.timing import compare

# B 2, H 3, N 33, D 64.
SMALL = partial(pinned, 33, 64, shape=(2, 3), device="cpu")
# PyTorch warns of each reason for which it has no cuDNN kernel here.
pytestmark = pytest.mark.filterwarnings("ignore:.*cuDNN|.*not supported|.*cudnn|.*CUDNN")


@pytest.mark.parametrize("causal", [False, True])
def test_each_direction_beside_each_peer(causal):
    found = list(SMALL(causal=causal))
    assert [work.name.rpartition(" ")[2] for work in found] == ["forward"] * 2 + ["backward"] * 2
    assert [work.peer.partition(",")[0] for work in found] == [*PEERS] * 2
    assert [work.bar for work in found] == [0.8, None, 0.8, None]
    with_kernel = [work for work in found if work.peer == "SDPA-FLASH"]
    assert all(work.equal(work.ours(), work.theirs()) for work in with_kernel)
    for work, backward in zip(found[::2], (False, True), strict=True):
        expected = attention_flops(33, 64, heads=6, causal=causal, backward=backward)
        assert (work.work, work.work_unit) == (expected, "FLOP")


def test_a_peer_without_a_kernel_is_said_and_not_timed():
    missing = next(work for work in SMALL(causal=True) if work.peer.startswith("cuDNN"))
    if torch.cuda.is_available():
        pytest.skip("needs a machine without cuDNN")
    assert missing.peer == "cuDNN, which has no kernel here"
    assert not compare(missing).equal


def test_an_error_in_either_end_of_the_heads_is_seen():
    """The first head of the first entry and the last of the last are compared with float32."""
    for work in SMALL(causal=True):
        results = work.ours()
        for place, at in ((place, at) for place in range(len(results)) for at in (0, -1)):
            wrong = [result.clone() for result in results]
            wrong[place][at, at] *= 1.05
            assert not work.equal(wrong, results)
            assert not work.equal(results, wrong)
            wrong[place][at, at, 0, 0] = torch.nan
            assert not work.equal(wrong, results)
        assert work.equal(results, results)
        assert not work.equal(results[1:], results)


def test_decoding_moves_as_many_bytes_as_its_peer():
    work = decoding(257, shape=(2, 6, 3, 32), device="cpu")
    assert (work.work, work.work_unit) == (2 * 2 * 3 * 257 * 32 * 2, "B")
    out, copied = work.ours(), work.theirs()
    assert 2 * copied.nbytes == work.work
    assert work.equal(out, copied)
    assert not work.equal(out * 1.05, copied)
    assert not work.equal(out, torch.zeros_like(copied))


def test_every_direction_and_width_has_its_bars():
    assert set(BARS) == {
        (direction, width, peer)
        for direction in ("forward", "backward")
        for width in flash.GPU_WIDTHS
        for peer in PEERS
        if (direction, peer) != ("backward", "cuDNN")
    }
    assert flash.bar_of("forward", 64, 2048, "cuDNN") == 0.8
    assert flash.bar_of("backward", 128, 2048, "cuDNN") is None
    assert flash.bar_of("forward", 64, 1024, "cuDNN") is None


def test_on_a_gpu_one_setting_at_a_time(monkeypatch):
    asked = []
    monkeypatch.setattr(flash, "pinned", lambda *s, **o: asked.append((*s, o["causal"])) or [None])
    monkeypatch.setattr(flash, "decoding", lambda keys: asked.append(keys) or None)
    rest = iter(flash.workloads("cuda"))
    next(rest)
    assert asked == [(1024, 64, False)]
    assert len(list(rest)) == 2 * 5 * 2 + 3 - 1
    assert asked[-4:] == [(16384, 128, True), 32768, 65536, 131072]
