"""SharedArray: the same memory in two processes, and none of it afterwards."""

import gc
import mmap
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from companion.processes.launching import launch
from companion.processes.memory_blocks import AnonymousMemory, NamedMemory
from companion.processes.shared_array import SharedArray
from tests.processes import ranks_launch as ranks
from tests.processes.test_launch_leftovers import script, started

LINUX = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memfd_create")
pytestmark = pytest.mark.usefixtures("nothing_left")

ROOT = Path(__file__).parents[2]
SHM = Path("/dev/shm")


@pytest.fixture(params=[pytest.param(False, marks=LINUX, id="anonymous"), "named"])
def make(request):
    return lambda *args: SharedArray(*args, _named=bool(request.param))


def twin(array):
    """The array as another process would get it."""
    return pickle.loads(pickle.dumps(array))


def test_two_views_of_one_memory(make):
    with make((3, 5), torch.float64) as ours, twin(ours) as theirs:
        assert ours.tensor.tolist() == [[0.0] * 5] * 3
        assert ours.tensor.data_ptr() != theirs.tensor.data_ptr()
        ours.tensor[1, 2] = 7.0
        assert theirs.tensor[1, 2] == 7.0
        theirs.tensor.t()[4, 0] = 9.0
        assert ours.tensor[0, 4] == 9.0


def test_ranks_see_one_memory(make):
    with make(3, torch.int64) as shared:
        shared.tensor.copy_(torch.tensor([1, 2, 3]))
        aligned = launch(ranks.add_to_shared, 3, shared, backend=None)
        assert shared.tensor.tolist() == [11, 22, 33]  # ranks add 10, 20, 30 to their own entry
        assert aligned == [0, 0, 0]
        # Ranks that attached and have ended take it from nobody.
        with twin(shared) as again:
            assert again.tensor.tolist() == [11, 22, 33]


@LINUX
def test_a_rank_may_return_one():
    first, second = launch(ranks.make_shared, 2, backend=None)
    with first, second:
        assert (first.tensor.tolist(), second.tensor.tolist()) == ([1.0] * 3, [2.0] * 3)


@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "complex64",
        "complex128",
        "uint16",
    ],
)
def test_dtypes(make, dtype):
    kind = getattr(torch, dtype)
    values = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(kind)
    with make((2, 3), kind) as ours, twin(ours) as theirs:
        ours.tensor.copy_(values)
        assert theirs.tensor.dtype is kind
        assert theirs.tensor.is_contiguous()
        assert torch.equal(theirs.tensor.view(torch.uint8), values.view(torch.uint8))
        assert ours.size_bytes == values.nbytes


@pytest.mark.parametrize(
    ("shape", "size_bytes"), [((), 4), (5, 20), ((0,), 0), ((3, 0, 7), 0), ([2, 3], 24)]
)
def test_shapes(make, shape, size_bytes):
    with make(shape) as ours, twin(ours) as theirs:
        for array in (ours, theirs):
            assert array.tensor.shape == torch.Size([shape] if isinstance(shape, int) else shape)
            assert array.tensor.dtype is torch.float32
            assert array.size_bytes == size_bytes
        ours.tensor.fill_(3)
        assert torch.equal(ours.tensor, theirs.tensor)


def test_the_handle_is_small(make):
    with make(1_000_003) as shared:
        assert len(pickle.dumps(shared)) < 500


def test_a_tensor_outlives_the_array(make):
    shared = make(5)
    tensor, part = shared.tensor, shared.tensor[2:]
    shared.close()
    tensor.fill_(2.0)
    del tensor
    assert part.tolist() == [2.0] * 3  # without the mapping: a segmentation fault


def test_after_close(make):
    shared = make(5)
    handle = pickle.dumps(shared)
    assert not shared.closed
    shared.close()
    shared.close()
    assert shared.closed
    assert repr(shared) == "SharedArray((5,), torch.float32, closed)"
    for use in (lambda: shared.tensor, lambda: pickle.dumps(shared), shared.__enter__):
        with pytest.raises(ValueError, match="expected an open SharedArray, got one that was"):
            use()
    with pytest.raises(FileNotFoundError, match=f"expected process {os.getpid()} to hold the mem"):
        pickle.loads(handle)


@LINUX
def test_a_descriptor_that_is_something_else_by_now():
    shared = SharedArray(5)
    handle = pickle.dumps(shared)
    number = shared._memory.fd
    shared.close()
    other = SharedArray(7)
    assert other._memory.fd == number  # the system gives out the lowest free one
    with pytest.raises(FileNotFoundError, match="has ended or has closed it"):
        pickle.loads(handle)
    other.close()


def test_dropped_without_close(make):
    shared = make(5)
    assert repr(shared) == "SharedArray((5,), torch.float32)"
    del shared
    gc.collect()  # nothing_left looks for the rest


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "message"),
    [
        ((2, -1), None, ValueError, r"no negative dimension, got \(2, -1\)"),
        ((2, 1.0), None, TypeError, r"a sequence of ints, got \(2, 1.0\)"),
        (True, None, TypeError, "a sequence of ints, got True"),
        (None, None, TypeError, "a sequence of ints, got None"),
        (3, "float32", TypeError, "dtype must be a torch.dtype, got 'float32'"),
    ],
)
def test_wrong_arguments(shape, dtype, kind, message):
    with pytest.raises(kind, match=message):
        SharedArray(shape, dtype)


def test_more_than_there_is(make):
    with pytest.raises((OSError, OverflowError)):
        make(2**60, torch.uint8)


@LINUX
def test_kill_9_of_all_leaves_nothing(tmp_path, gone):
    """Ours without a name; the named one is removed by the resource tracker, which lives on."""
    for named in (False, True):
        folder = tmp_path / str(named)
        folder.mkdir()
        code = f"""
            from companion.processes.launching import launch
            from companion.processes.shared_array import SharedArray
            from tests.processes.ranks_launch import hold_shared
            shared = SharedArray(1000, _named={named})
            launch(hold_shared, 2, shared, {str(folder)!r}, backend=None)
        """
        # Nobody survives who could remove the file in which the ranks met.
        program = script(folder, code, TMPDIR=str(folder))
        pids = started(folder, 2)
        names = list(SHM.glob(f"companion-{program.pid}-*"))
        assert len(names) == named
        for pid in (program.pid, *pids):
            os.kill(pid, signal.SIGKILL)
        program.communicate()
        assert gone(program.pid, *pids)
        assert wait_until(lambda names=names: not any(name.exists() for name in names))


def test_a_process_of_another_tracker_takes_it_from_nobody(make):
    """A trap of ``multiprocessing.shared_memory`` before Python 3.13: it does."""
    with make(3) as shared:
        code = f"""
            import pickle
            with pickle.loads({pickle.dumps(shared)!r}) as theirs:
                theirs.tensor.add_(5)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        with twin(shared) as again:
            assert again.tensor.tolist() == [5.0] * 3


@pytest.mark.parametrize("kind", [pytest.param(AnonymousMemory, marks=LINUX), NamedMemory])
def test_a_block_of_memory(kind):
    memory = kind.make(5)
    same = kind.find(pickle.loads(pickle.dumps(memory.handle())))
    with mmap.mmap(memory.fd, 5) as ours, mmap.mmap(same.fd, 5) as theirs:
        ours[:] = b"words"
        assert theirs[:] == b"words"
    for block in (same, memory) if kind is AnonymousMemory else (memory,):
        block.close()
    if kind is NamedMemory:
        os.close(same.fd)


def wait_until(condition, within_s=100.0):
    import time

    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()
