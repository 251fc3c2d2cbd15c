"""What the tests of this room share."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread: None) -> None:
    """All tests here: their tensors are small."""
