"""What the tests of this room share."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread: None) -> None:
    """All tests here: their tensors are small."""


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipe's tests train on. Imported late: other tests need no transformers."""
    from tests.lora.recipe import write_inputs

    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def arguments(inputs: Path, tmp_path: Path) -> list[str]:
    """The command line of a short run in a folder of its own."""
    from tests.lora.recipe import small_arguments

    return small_arguments(inputs, tmp_path / "run")
