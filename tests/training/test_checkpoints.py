"""A tree comes back as it went in, from a file that is always whole."""

import math
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from companion.training.checkpoints import read_checkpoint, write_checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "state.safetensors"


def test_plain_values_come_back_with_their_types(path):
    tree = {
        "none": None,
        "flag": True,
        "count": 2**70,
        "rate": 0.1,
        "limits": (-math.inf, math.inf),
        "word": "épsilon",
        "list": [1, (2, [3.0])],
        3: {"nested": {}},
    }
    write_checkpoint(path, tree)
    back = read_checkpoint(path)
    assert back == tree
    assert type(back["flag"]) is bool
    assert type(back["limits"]) is tuple


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
)
def test_tensors_come_back_bit_for_bit(path, dtype):
    tensor = (torch.arange(15).reshape(3, 5).T % 4).to(dtype)  # not contiguous
    write_checkpoint(path, {"t": [tensor, torch.empty(0, 2), torch.tensor(7)]})
    back, empty, scalar = read_checkpoint(path)["t"]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)
    assert empty.shape == (0, 2)
    assert scalar.shape == ()


def test_nan_payload_survives(path):
    bits = torch.tensor([0x7FC00001, -1], dtype=torch.int32)
    write_checkpoint(path, {"t": bits.view(torch.float32), "x": math.nan})
    back = read_checkpoint(path)
    assert torch.equal(back["t"].view(torch.int32), bits)
    assert math.isnan(back["x"])


def test_keys_that_look_like_other_places_are_kept_apart(path):
    keys = ["a/b", "a/b#1", "a/b#2", "a/b#3", "__metadata__", "#", ""]
    tree = {key: torch.tensor(number) for number, key in enumerate(keys)}
    tree["a"] = {"b": torch.tensor(7), "b#1": torch.tensor(8)}
    write_checkpoint(path, tree)
    back = read_checkpoint(path)
    assert [back[key].item() for key in keys] == list(range(7))
    assert (back["a"]["b"].item(), back["a"]["b#1"].item()) == (7, 8)


def test_numpy_numbers_come_back_as_pythons(path):
    tree = {"lr": np.float64(0.1), "half": np.float32(0.1), "n": np.int64(3), "on": np.True_}
    write_checkpoint(path, tree)
    back = read_checkpoint(path)
    assert back == tree
    assert [type(value) for value in back.values()] == [float, float, int, bool]


def test_tied_tensors_and_equal_names_are_kept(path):
    shared = torch.ones(3)
    write_checkpoint(path, {"a": shared, "b": shared, "c": {"d": torch.zeros(1)}, "c/d": shared})
    back = read_checkpoint(path)
    assert torch.equal(back["a"], back["b"])
    assert back["c"]["d"].tolist() == [0.0]
    assert back["c/d"].tolist() == [1.0, 1.0, 1.0]


def test_a_parameter_is_copied_when_written(path):
    weight = torch.nn.Parameter(torch.ones(2))
    write_checkpoint(path, {"w": weight})
    assert not read_checkpoint(path)["w"].requires_grad


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ({"a": {"f": len}}, "got <class 'builtin_function_or_method'> at 'a/f'"),
        ({"a": [1, {2, 3}]}, "got <class 'set'> at 'a/1'"),
        ({"a": {(1, 2): 3}}, r"expected str or int keys at 'a', got \(1, 2\)"),
        ({"a": {True: 3}}, "expected str or int keys at 'a', got True"),
    ],
)
def test_other_values_are_named(path, tree, match):
    with pytest.raises(TypeError, match=match):
        write_checkpoint(path, tree)
    assert not path.exists()


def test_the_old_file_stays_while_the_new_one_is_written(path, monkeypatch):
    write_checkpoint(path, {"n": 1})

    def full_disk(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("companion.training.checkpoints.save_file", full_disk)
    with pytest.raises(OSError, match=f"cannot write the checkpoint {path}: No space left"):
        write_checkpoint(path, {"n": 2})
    monkeypatch.undo()
    assert read_checkpoint(path) == {"n": 1}
    write_checkpoint(path, {"n": 3})
    assert read_checkpoint(path) == {"n": 3}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_file_is_on_the_disk_before_it_is_renamed(path, monkeypatch):
    order = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda fd: order.append("flush") or flush(fd))
    monkeypatch.setattr("os.replace", lambda a, b: order.append("rename") or rename(a, b))
    write_checkpoint(path, {"n": 1})
    assert order[:2] == ["flush", "rename"]
    assert order[2:] == (["flush"] if os.name == "posix" else [])  # the folder, with the new name


def test_another_version_is_named(path):
    write_checkpoint(path, {"n": 1, "t": torch.ones(1)})
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file({"t": torch.ones(1)}, path, metadata=header | {"version": "9"})
    with pytest.raises(ValueError, match=r"expected version 2 of .* got 9"):
        read_checkpoint(path)


def test_a_strangers_file_is_named(path, tmp_path):
    save_file({"t": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="got another safetensors file"):
        read_checkpoint(tmp_path / "other.safetensors")


def test_a_missing_file_is_a_missing_file(path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(path)


def test_every_flipped_bit_is_noticed(path):
    """Of the whole file: header, padding, tree and tensors."""
    tree = {"é": torch.arange(2.0), "b": torch.tensor(True)}
    write_checkpoint(path, tree)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=f"in {path}"):
                read_checkpoint(path)


def test_a_tensor_that_took_another_ones_place_is_noticed(path):
    write_checkpoint(path, {"a": torch.zeros(2), "b": torch.ones(2)})
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file({"a": torch.ones(2), "b": torch.zeros(2)}, path, metadata=header)
    with pytest.raises(ValueError, match="SHA-256 does not fit"):
        read_checkpoint(path)
