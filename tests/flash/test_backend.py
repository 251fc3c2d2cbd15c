"""Which back end runs, where, and in whose context."""

import asyncio
import subprocess
import sys
import threading

import pytest
import torch

from companion.flash import attention, attention_backend, flash_attention
from companion.flash.backend import chosen_backend


@pytest.fixture
def calls(monkeypatch):
    """The names of the passes that ran."""
    seen = []
    passes = attention._passes

    def recorded(backend):
        seen.append(backend)
        return passes("tiled")  # the kernels have tests of their own

    monkeypatch.setattr(attention, "_passes", recorded)
    return seen


def attend(**settings):
    q, k, v = (torch.randn(1, 1, 3, 16, requires_grad=True) for _ in range(3))
    return flash_attention(q, k, v, **settings)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", torch.float32, "tiled"),
        ("mps", torch.float16, "tiled"),
        ("cuda", torch.float64, "tiled"),
        ("cuda", torch.bfloat16, "triton"),
    ],
)
def test_by_device(device, dtype, expected):
    if expected == "triton":
        pytest.importorskip("triton")
    assert chosen_backend(device, dtype) == expected


@pytest.mark.parametrize("name", ["tiled", "naive"])
def test_a_context_has_the_last_word(name):
    with attention_backend(name):
        assert chosen_backend("cpu", torch.float32) == name
        assert chosen_backend("cuda", torch.float16) == name
        with attention_backend("naive"):
            assert chosen_backend("cpu", torch.float32) == "naive"
        assert chosen_backend("cpu", torch.float32) == name
    assert chosen_backend("cpu", torch.float32) == "tiled"


def test_a_context_closes_after_an_error():
    with pytest.raises(KeyError), attention_backend("naive"):
        raise KeyError
    assert chosen_backend("cpu", torch.float32) == "tiled"


def test_another_name_is_refused():
    message = "backend: expected one of triton, tiled, naive, got 'cuda'"
    with pytest.raises(ValueError, match=message), attention_backend("cuda"):
        pass


def test_backward_uses_the_back_end_of_its_forward(calls, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    with attention_backend("triton"):
        out = attend()
    with attention_backend("tiled"):
        out.sum().backward()
    attend().sum().backward()
    assert calls == ["triton", "triton", "tiled", "tiled"]


def test_naive_runs_no_tiles(calls):
    with attention_backend("naive"):
        attend().sum().backward()
    assert calls == []


def test_triton_wants_a_gpu_or_its_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    message = "backend 'triton': expected CUDA tensors, got cpu; .* set TRITON_INTERPRET=1"
    with attention_backend("triton"), pytest.raises(RuntimeError, match=message):
        attend()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with attention_backend("triton"), pytest.raises(RuntimeError, match="got mps"):
        chosen_backend("mps", torch.float32)
    message = r"expected float16, bfloat16 or float32, got torch\.float64"
    with attention_backend("triton"), pytest.raises(TypeError, match=message):
        chosen_backend("cuda", torch.float64)


def test_triton_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # what `import triton` then finds
    message = r"expected the package triton to be installed; .*attention_backend\('tiled'\)"
    with pytest.raises(RuntimeError, match=message):
        chosen_backend("cuda", torch.float16)
    attend()


def test_other_threads_choose_for_themselves():
    inside, done, seen = threading.Event(), threading.Event(), []

    def other():
        inside.wait(100)
        seen.append(chosen_backend("cpu", torch.float32))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with attention_backend("naive"):
        inside.set()
        done.wait(100)
    thread.join()
    assert seen == ["tiled"]


def test_other_tasks_choose_for_themselves():
    async def task(name, turn, other):
        with attention_backend(name):
            other.set()
            await turn.wait()
            return chosen_backend("cpu", torch.float32)

    async def both():
        first, second = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(task("naive", first, second), task("tiled", second, first))

    assert asyncio.run(both()) == ["naive", "tiled"]


def test_import_brings_no_triton():
    """Nor the compiler, which would; and where there is none, the CPU's path runs."""
    code = (
        "import sys, torch, companion.flash\n"
        "assert not {'triton', 'torch._dynamo', 'transformers'} & set(sys.modules)\n"
        "sys.modules['triton'] = None\n"
        "from companion.flash import flash_attention\n"
        "q = torch.ones(1, 1, 2, 16, requires_grad=True)\n"
        "flash_attention(q, q, q).sum().backward()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=250)
