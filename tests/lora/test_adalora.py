"""AdaLoRA: the update by hand, importance by its formula, the budget, and the layers it spares."""

import numpy as np
import pytest
import torch
from torch import nn

from companion.lora.study.adalora import (
    AdaLoRALinear,
    Importance,
    add_adalora,
    budget_at,
    keep_most_important_,
    train_adalora,
)


def _layer(outputs=5, inputs=7, directions=3, scale=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    base = nn.Linear(inputs, outputs)
    return AdaLoRALinear(base, directions=directions, scale=scale, generator=generator)


def test_output_is_that_of_the_dense_weight():
    layer = _layer().double()
    x = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.base(x))  # λ = 0
    layer.lam_K.data = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64)
    p, q = layer.p_OK.detach().numpy(), layer.q_KI.detach().numpy()
    dense = layer.base.weight.detach().numpy() + 0.5 * p @ np.diag([2.0, -3.0, 0.5]) @ q
    expected = x.numpy() @ dense.T + layer.base.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-12)


def test_directions_start_at_about_length_one():
    layer = _layer(outputs=400, inputs=900, directions=4)
    torch.testing.assert_close(layer.p_OK.norm(dim=0), torch.ones(4), atol=0.15, rtol=0)
    torch.testing.assert_close(layer.q_KI.norm(dim=1), torch.ones(4), atol=0.15, rtol=0)


def test_penalty_is_zero_for_orthonormal_directions_only():
    layer = _layer()
    layer.p_OK.data, layer.q_KI.data = torch.eye(5)[:, :3], torch.eye(7)[:3]
    assert layer.penalty() == 0
    layer.q_KI.data[0] *= 2  # ‖q‖² = 4, which is 3 too many
    assert layer.penalty() == 9
    layer.p_OK.data[:, 1] = layer.p_OK.data[:, 0]  # one inner product, seen twice
    assert layer.penalty() == 11


def test_importance_after_two_steps_by_hand():
    layer = _layer(outputs=2, inputs=3, directions=2)
    importance = Importance([layer], beta=0.5)
    ones = {name: torch.ones_like(p) for name, p in layer.named_parameters() if p.requires_grad}
    layer.p_OK.data, layer.q_KI.data, layer.lam_K.data = ones["p_OK"], ones["q_KI"], ones["lam_K"]
    for gradient in (-4.0, 8.0):
        layer.p_OK.grad = torch.tensor([[gradient, 0.0], [0.0, 0.0]])
        layer.q_KI.grad = torch.zeros(2, 3)
        layer.lam_K.grad = torch.tensor([0.0, gradient])
        importance.update()
    # |wg| 4, 8: u is 2, then 5; |now − u| is 2, then 3, so v is 1, then 2. u v = 10, half for P's 2
    assert [s.tolist() for s in importance.scores()] == [[5.0, 10.0]]


def test_budget_goes_to_the_largest_scores_of_all_layers():
    first, second = _layer(), _layer()
    for layer in (first, second):
        layer.lam_K.data = torch.tensor([1.0, 2.0, 3.0])
    scores = [torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0.05, 0.9, 0.0])]
    keep_most_important_([first, second], scores, 3)
    assert first.lam_K.tolist() == [1.0, 0.0, 3.0]
    assert second.lam_K.tolist() == [0.0, 2.0, 0.0]


def test_budget_falls_by_a_cubic():
    found = [budget_at(i, 11, first=100, last=20, warmup=2, final=4) for i in range(11)]
    assert found == [100, 100, 100, 61, 37, 25, 21, 20, 20, 20, 20]


def test_training_spends_the_budget_where_the_change_is():
    network = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in network:
            layer.weight.copy_(torch.eye(6))
    goal = torch.eye(6).double()
    goal[:3, :3] += torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()
    x = torch.randn(200, 6, dtype=torch.float64, generator=generator)
    layers = add_adalora(network, targets=("1",), directions=5, scale=1.0, generator=generator)
    network.double()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"1.p_OK", "1.q_KI", "1.lam_K"}

    def loss_of(batch):
        return (network(batch) - batch @ goal.T).square().mean()

    before = loss_of(x).item()
    train_adalora(layers, [x] * 60, loss_of, learning_rate=0.1, directions=3)
    assert loss_of(x).item() < 0.05 * before
    assert (layers[0].lam_K != 0).sum() == 3


def test_no_direction():
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        _layer(directions=0)


def test_target_that_matches_nothing():
    with pytest.raises(ValueError, match=r"expected names of linear layers, got \['q_proj'\]"):
        add_adalora(nn.Sequential(nn.Linear(2, 2)), targets=("q_proj",), directions=1, scale=1.0)
