"""Rebuilding a change from its largest directions: scipy's decomposition, and counting by hand."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from companion.lora.study.truncation import losses_of_truncations, rebuilt


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (4, 4)])
@pytest.mark.parametrize("rank", [0, 1, 3, 99])
def test_rebuilt_is_scipys_truncation(shape, rank):
    delta = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u, s, v = scipy.linalg.svd(delta.numpy(), full_matrices=False)
    s[rank:] = 0
    np.testing.assert_allclose(rebuilt(delta, rank).numpy(), (u * s) @ v, atol=1e-12)


def test_negative_rank():
    with pytest.raises(ValueError, match="rank must be at least 0, got -1"):
        rebuilt(torch.eye(2), -1)


def test_loss_sees_every_change_at_its_rank():
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    for layer in network:
        nn.init.zeros_(layer.weight)
    deltas = {
        "0": torch.diag(torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64)),
        "1": torch.diag(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)),
    }
    sums = losses_of_truncations(
        network, deltas, (2, 0, 1, 3), lambda n: sum(x.weight.sum().item() for x in n)
    )
    assert list(sums) == [2, 0, 1, 3]
    assert sums == pytest.approx({0: 0, 1: 105, 2: 118, 3: 120}, abs=1e-9)
    assert all(not layer.weight.any() for layer in network)


def test_wrong_shape_names_the_layer():
    with pytest.raises(ValueError, match=r"0: expected a change of shape \(2, 3\), got \(3, 2\)"):
        losses_of_truncations(
            nn.Sequential(nn.Linear(3, 2)), {"0": torch.ones(3, 2)}, (1,), lambda n: 0.0
        )
