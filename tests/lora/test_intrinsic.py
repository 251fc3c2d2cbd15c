"""Training in a random subspace: the weights stay in it, and enough directions learn the task."""

import copy

import pytest
import torch

from companion.lora.study.intrinsic import readable_digits, train_all, train_in_subspace


@pytest.fixture(scope="module")
def start():
    return readable_digits(shift=1, seed=0)


def _difference(network, other):
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    return torch.cat([(p - q).detach().flatten() for p, q in pairs])


def test_change_lies_in_the_drawn_subspace(start):
    network, task = start
    before = copy.deepcopy(network.state_dict())
    tuned = train_in_subspace(network, task, directions=3, seed=5, steps=4)
    basis = torch.randn(2410, 3, generator=torch.Generator().manual_seed(5)) / 3**0.5
    change = _difference(tuned, network)
    solution = torch.linalg.lstsq(basis.double(), change.double()[:, None]).solution
    assert change.norm() > 0.1
    torch.testing.assert_close(basis.double() @ solution[:, 0], change.double(), atol=1e-5, rtol=0)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_more_directions_learn_the_shifted_digits(start):
    network, task = start
    few = task.accuracy(train_in_subspace(network, task, directions=4, seed=0))
    many = task.accuracy(train_in_subspace(network, task, directions=256, seed=0))
    assert task.accuracy(network) < 0.7
    assert few < 0.7
    assert many > 0.85


def test_images_are_shifted_to_the_right(start):
    _, task = start
    _, upright = readable_digits(shift=0, seed=0)
    x, y = upright.images_NI.reshape(-1, 8, 8), task.images_NI.reshape(-1, 8, 8)
    assert torch.equal(y[:, :, 1:], x[:, :, :-1])
    assert torch.equal(task.labels_N, upright.labels_N)


def test_network_reads_upright_digits_it_has_not_seen():
    network, task = readable_digits(shift=0, seed=0)
    assert task.accuracy(network) > 0.93


def test_no_direction_at_all(start):
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        train_in_subspace(*start, directions=0, seed=0)


def test_full_tuning_learns_the_shifted_digits_and_leaves_the_start(start):
    network, task = start
    before = copy.deepcopy(network.state_dict())
    assert task.accuracy(train_all(network, task)) > 0.93
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_losses_of_a_network_that_knows_nothing(start):
    _, task = start
    blank = torch.nn.Linear(64, 10)
    torch.nn.init.zeros_(blank.weight), torch.nn.init.zeros_(blank.bias)
    assert task.loss(blank).item() == pytest.approx(2.302585, abs=1e-5)  # log 10
    blank.bias.data[3] = 100.0  # sure that all is a 3
    is_3 = task.labels_N == 3
    training = 100 * (~is_3[:1200]).float().mean().item()
    assert task.loss(blank).item() == pytest.approx(training, rel=1e-5)
    held_out = 100 * (~is_3[1200:]).float().mean().item()
    assert task.held_out_loss(blank).item() == pytest.approx(held_out, rel=1e-5)
