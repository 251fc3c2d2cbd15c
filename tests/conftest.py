"""Fixtures that every room's tests share."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

with contextlib.suppress(ImportError):  # a GPU machine may have torch and pytest, and no more
    from hypothesis import settings

    # The same examples on every run and every machine, and no folder left behind.
    settings.register_profile("course", deadline=None, derandomize=True, database=None)
    settings.load_profile("course")

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])])
def device(request: pytest.FixtureRequest) -> str:
    """Runs a test on the CPU and, where there is one, on a CUDA device."""
    return request.param


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: two threads that share a busy machine wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_window() -> Iterator[None]:
    """Figures are drawn and closed; no window opens, and none of them stays."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(before)
