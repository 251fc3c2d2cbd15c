"""One process or several: the group it runs in, and what all must agree on."""

import os
from datetime import timedelta

import pytest
from torch import distributed

from companion.training import process_group as module
from companion.training.process_group import check_alike, process_group, rank_and_ranks


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_processes_that_see_other_files_stop(monkeypatch, rank):
    """Every process hears of it, also those that agree with the first."""
    others = [{"seed": 3, "steps done": done} for done in (4, 4, 0)]
    monkeypatch.setattr(module, "rank_and_ranks", lambda: (rank, 3))
    monkeypatch.setattr(
        "torch.distributed.all_gather_object", lambda into, _: into.__setitem__(slice(3), others)
    )
    with pytest.raises(
        ValueError,
        match=r"expected \{'steps done': 4\}, as .* got \{'steps done': 0\} in process 2",
    ):
        check_alike(others[rank])
    others[2] = others[0]
    check_alike(others[rank])


def test_one_process_agrees_with_itself_and_needs_no_group():
    with process_group("cpu") as device:
        assert device.type == "cpu"
        assert not distributed.is_initialized()
        assert rank_and_ranks() == (0, 1)
        check_alike({"seed": 3})


def test_a_group_of_one_where_it_is_asked_for():
    assert "RANK" not in os.environ
    with process_group("cpu", timeout_s=7, alone=True):
        assert distributed.get_world_size() == 1
        group = distributed.distributed_c10d._get_default_group()
        assert group._get_backend(module.torch.device("cpu")).options._timeout == timedelta(
            seconds=7
        )
        with process_group("cpu", alone=True):  # the one that is there serves, and stays
            pass
        assert distributed.is_initialized()
    assert not distributed.is_initialized()


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match="expected"), process_group(device):
        pass
