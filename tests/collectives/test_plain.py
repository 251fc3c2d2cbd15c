"""The chapter's plain ring on real ranks: exact sums, also where chunks are empty."""

import pytest
import torch

from companion.collectives.study.plain import plain_ring
from companion.processes import launch


@pytest.mark.parametrize("size", [0, 2, 11])
def test_plain_ring_sums_exactly_on_every_rank(size):
    tensors = [10**rank * torch.arange(1, size + 1) for rank in range(3)]
    for total in launch(plain_ring, 3, tensors):
        assert total.tolist() == [111 * (i + 1) for i in range(size)]
