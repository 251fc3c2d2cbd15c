"""Tensors on a GPU: over NCCL, staged through the host over gloo, and with both backends."""

import pytest

from companion.processes import launch
from tests.collectives import ranks_p2p_cuda as ranks

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("backend", "size"),
    [("nccl", 1), ("nccl", 2), ("nccl", 3), ("gloo", 2), ("cpu:gloo,cuda:nccl", 2)],
)
def test_all_collectives_on_a_gpu(backend, size, tmp_path):
    results = launch(ranks.everything, size, str(tmp_path), backend, backend=None, timeout_s=180)
    total = size * (size + 1) // 2
    for result in results:
        assert result["wrong"] == []
        assert result["cpu"] == [sum(range(size))] * 7
        assert result["async"] == [[2.0 * total, 2048.0]] * 5
        assert all(result["check"])
        flat, rows, is_cuda = result["gathered"]
        assert flat == [float(total * i) for i in range(10)]
        assert rows == [[r, r] for r in range(size) for _ in range(r)]
        assert is_cuda
        if size > 1:
            assert result["mismatch"].startswith("CollectiveMismatch: ranks disagree on all_reduce")
