"""Peaks of allocated bytes, by hand."""

import subprocess
import sys

import pytest
import torch

from companion.measure.peak_memory import peak_bytes


def test_two_live_at_once():
    def work():
        a = torch.empty(1000)  # 4000
        b = torch.empty(500, dtype=torch.float64)  # 8000 in all
        del a  # 4000
        c = torch.empty(250, dtype=torch.int8)  # 4250
        return b, c

    assert peak_bytes(work) == 8000


def test_the_peak_may_be_the_end():
    assert peak_bytes(lambda: [torch.empty(100) for _ in range(7)]) == 2800


def test_one_after_another_count_once():
    def work():
        for _ in range(5):
            torch.empty(300)

    assert peak_bytes(work) == 1200


def test_views_and_work_in_place_are_free():
    x = torch.ones(11, 7)
    assert peak_bytes(lambda: x.mT.unsqueeze(0).expand(3, 7, 11)) == 0
    assert peak_bytes(lambda: x.neg_()) == 0


def test_what_was_live_before_is_not_counted():
    before = torch.empty(100_000)
    assert peak_bytes(lambda: before[:10].clone()) == 40


def test_nothing_allocated():
    assert peak_bytes(lambda: None) == 0


def test_memory_inside_a_kernel_is_counted():
    """A product of broadcast matrices copies both, which no line of ours says."""
    a, b = torch.ones(3, 1, 5, 7), torch.ones(1, 2, 7, 11)
    output, copies = 3 * 2 * 5 * 11, 3 * 2 * (5 * 7 + 7 * 11)
    assert peak_bytes(lambda: a @ b) == 4 * (output + copies)


def test_backward_is_counted():
    """exp keeps its output; its backward makes one product; sum's backward makes a view."""
    x = torch.ones(1000, requires_grad=True)

    def work():
        (gradient,) = torch.autograd.grad(x.exp().sum(), x)
        return gradient

    assert 8000 <= peak_bytes(work) <= 8000 + 16  # two of 1000, and scalars


def test_the_same_twice():
    q = torch.randn(2, 3, 65, 16)

    def work():
        return torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    first = peak_bytes(work)
    assert first >= q.nbytes
    assert [peak_bytes(work) for _ in range(3)] == [first] * 3


def test_an_error_inside_leaves_the_profiler_off():
    def work():
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        peak_bytes(work)
    assert not torch.autograd._profiler_enabled()
    assert peak_bytes(lambda: torch.empty(10)) == 40


def test_thousands_of_operations():
    def work():
        x = torch.zeros(25)
        for _ in range(3000):
            x = x.neg()

    assert peak_bytes(work) == 200


def test_what_outlives_the_call_counts():
    kept = []
    assert peak_bytes(lambda: kept.append(torch.empty(10))) == 40
    assert kept[0].shape == (10,)


def test_nothing_is_printed():
    """A notebook shows the error stream, and a profiler writes to it below Python."""
    code = (
        "import torch; from companion.measure.peak_memory import peak_bytes; "
        "print(peak_bytes(lambda: torch.empty(10)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("40\n", "")


def test_another_device_is_refused():
    with pytest.raises(ValueError, match="device must be a CPU or a CUDA device, got meta"):
        peak_bytes(lambda: None, device="meta")


@pytest.mark.gpu
def test_on_a_gpu():
    def work():
        a = torch.empty(1024, device="cuda")
        b = torch.empty(2048, device="cuda")
        del a
        return b, torch.empty(512, device="cuda")

    torch.empty(1, device="cuda")
    assert peak_bytes(work, device="cuda") == 4 * (1024 + 2048)
