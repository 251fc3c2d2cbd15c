"""What PEFT's ``adapter_model.safetensors`` holds: the tensors of each adapted module.

    base_model.model.<module's dotted name>.lora_A.weight    and so on, shaped as our parameters

Source: PEFT 0.21, ``utils/save_and_load.py`` and ``tuners/lora``, whose names the file holds.
Chapter: course/07_lora.ipynb.  Dimension key: as the layers'.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from companion.lora.layer import LoRALayer
from companion.training.checkpoints import content_digest

__all__ = [
    "by_module",
    "in_file",
    "plain_name",
    "read_tensors",
    "safetensors_bytes",
    "unwrapped",
]

_PREFIX = "base_model.model."
# Our parameter → its name in the file. The shapes are the same, also for Conv1D, whose adapter
# PEFT keeps the other way round than its weight.
_IN_FILE = {
    "a_RI": "lora_A.weight",
    "b_OR": "lora_B.weight",
    "a_RIKK": "lora_A.weight",
    "b_OR11": "lora_B.weight",
    "a_RV": "lora_embedding_A",
    "b_DR": "lora_embedding_B",
    "magnitude_O": "lora_magnitude_vector",
}
# PEFT reads the magnitude under two names, and writes the first.
_PARTS = {part: part for part in _IN_FILE.values()}
_PARTS["lora_magnitude_vector.weight"] = "lora_magnitude_vector"
# What a wrapper calls the module in it. Data-parallel ones say "module", as others do as well.
_WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_DATA_PARALLEL = ("DataParallel", "DistributedDataParallel")
_DIGEST = "companion_sha256"
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def in_file(layer: LoRALayer) -> dict[str, nn.Parameter]:
    """The adapter's parameters by the last part of their names in the file."""
    own = dict(layer.named_parameters(recurse=False))
    return {_IN_FILE[name]: own[name] for name in own if name in _IN_FILE}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside all that is put around a whole model: compiled, data-parallel, …"""
    while True:
        inner = [model._modules[step] for step in _WRAPPED if step in model._modules]
        if type(model).__name__ in _DATA_PARALLEL:  # by name: torch's two, and ours
            inner = [model.module]
        if len(inner) != 1:
            return model
        model = inner[0]


def plain_name(name: str) -> str:
    """A dotted name without the steps that compiling or checkpointing a part puts into it."""
    return ".".join(step for step in name.split(".") if step not in _WRAPPED)


def safetensors_bytes(layers: Mapping[str, LoRALayer], settings: Mapping[str, Any]) -> bytes:
    """The content of the file for these layers, from their plain names.

    Its header, which PEFT does not read, holds a SHA-256 of the tensors and of the ``settings``.

    Raises:
        ValueError: If an adapter holds NaN or infinity; the message says where.
    """
    tensors = {
        # A copy of each: the file refuses tensors that share memory or lie with gaps.
        f"{_PREFIX}{name}.{part}": parameter.detach().to("cpu", copy=True).contiguous()
        for name, layer in layers.items()
        for part, parameter in in_file(layer).items()
    }
    _check_finite(tensors)
    digest = content_digest(_text(settings), tensors)
    return _in_order(save(tensors, metadata={"format": "pt", _DIGEST: digest}))


def read_tensors(file: Path, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of the file by the names in it, without the prefix; on the CPU.

    Args:
        file: To read.
        settings: What is in the folder's other file.

    Raises:
        ValueError: If the file is damaged, was saved with other settings, or holds something else
            than finite numbers under names that begin as PEFT's do.
    """
    try:
        with safe_open(file, framework="pt", device="cpu") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            saved = (content.metadata() or {}).get(_DIGEST)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"expected a whole safetensors file, got a truncated or damaged one in {file} ({error})"
        ) from error
    # PEFT's own files have none.
    if saved is not None and saved != content_digest(_text(settings), tensors):
        raise ValueError(
            f"expected {file} and the settings beside it as they were saved together, got others: "
            "damaged, of two saves, or edited. To keep an edit, save the tensors anew without "
            f"{_DIGEST} in the metadata"
        )
    for name in tensors:
        if not name.startswith(_PREFIX):
            raise ValueError(f"expected names that begin with {_PREFIX}, got {name} in {file}")
    _check_finite(tensors)
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def by_module(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The adapters' tensors by module and part, and what is left: copies of base weights."""
    adapters, others = defaultdict(dict), {}
    for name, tensor in tensors.items():
        for end, part in _PARTS.items():
            if name.endswith(f".{end}"):
                adapters[plain_name(name.removesuffix(f".{end}"))][part] = tensor
                break
        else:
            others[plain_name(name)] = tensor
    return dict(adapters), others


def _in_order(content: bytes) -> bytes:
    """The same file with its metadata sorted: safetensors writes them in an order of chance."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name}: expected floating-point numbers, got {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
