"""One cached language model for the whole session, outside the user's own cache."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("companion-cache")
    yield folder
    shutil.rmtree(folder)  # half a gigabyte that pytest would keep for three sessions
