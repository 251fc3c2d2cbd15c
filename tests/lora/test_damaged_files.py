"""A damaged bit, two saves in one folder, two writers: nothing of it goes unnoticed."""

import contextlib
import copy
import json

import pytest

from companion.lora.injection import lora_layers
from companion.lora.peft_files.folder import load_lora, save_lora
from companion.training.whole_file import sole_writer
from tests.lora.adapter_files import (
    CONFIG,
    MODELS,
    WEIGHTS,
    Mixed,
    change_tensors,
    ours,
    refuse,
    seeded,
)


@pytest.fixture
def saved(tmp_path):
    save_lora(ours("mixed", ["down"]), tmp_path)
    return tmp_path


def accepted(folder, file):
    """Each damaged content that loads, one bit flipped in every byte, with the place of the bit."""
    whole = (folder / file).read_bytes()
    base = seeded(Mixed)
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        (folder / file).write_bytes(content)
        with contextlib.suppress(ValueError):
            load_lora(copy.deepcopy(base), folder)
            yield place, bytes(content)


def test_a_flipped_bit_of_the_tensors_is_refused(saved):
    """Unless it is in a word that counts for nothing once the numbers are right."""
    whole = (saved / WEIGHTS).read_bytes()
    words = [b'"companion_sha256"', b'"format":"pt"']
    harmless = {whole.index(word) + i for word in words for i in range(len(word))}
    places = {place for place, _ in accepted(saved, WEIGHTS)}
    assert places <= harmless
    assert places


def test_a_flipped_bit_of_the_settings_is_refused(saved):
    settings = json.loads((saved / CONFIG).read_text())
    for _, content in accepted(saved, CONFIG):  # a space that became another kind of space
        assert json.loads(content) == settings


def test_a_number_that_changed_is_refused_with_its_file(saved):
    content = bytearray((saved / WEIGHTS).read_bytes())
    content[-1] ^= 1  # the sign of the last number
    (saved / WEIGHTS).write_bytes(content)
    refuse(
        MODELS["mixed"](), saved, rf"{WEIGHTS} and the settings beside it .* got others: damaged"
    )


def test_settings_of_another_save_are_refused_until_the_tensors_are_saved_without_a_sum(saved):
    settings = json.loads((saved / CONFIG).read_text()) | {"lora_alpha": 2.0}
    (saved / CONFIG).write_text(json.dumps(settings))
    refuse(MODELS["mixed"](), saved, "of two saves, or edited")
    change_tensors(saved, lambda tensors: None)
    (layer,) = lora_layers(load_lora(MODELS["mixed"](), saved)).values()
    assert layer.alpha == 2.0


def test_settings_in_another_layout_are_the_same_settings(saved):
    settings = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(dict(reversed(settings.items()))))
    assert lora_layers(load_lora(MODELS["mixed"](), saved))


def test_a_second_writer_is_told(saved):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with sole_writer(saved / WEIGHTS), pytest.raises(OSError, match="got another one that has not"):
        save_lora(ours("mixed", ["down"], "dora"), saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
