"""Adapters on disk, in PEFT's format: a small folder that opens here and in PEFT.

    adapter_config.json          rank, alpha, variant, which modules
    adapter_model.safetensors    A and B of each

The base model is not in it: whoever opens the folder brings the same one.
Source: PEFT 0.21, ``PeftModel.save_pretrained`` and ``PeftModel.from_pretrained``.
Chapter: course/07_lora.ipynb.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from companion.checks import typed
from companion.lora.embedding import is_embedding
from companion.lora.injection import attach, lora_layers, new_layer
from companion.lora.layer import LoRALayer
from companion.lora.peft_files.config import AdapterConfig, checked_config, config_of, read_settings
from companion.lora.peft_files.differences import (
    check_base,
    check_saved_pissa,
    check_slots,
    check_whole_weight,
)
from companion.lora.peft_files.tensors import (
    by_module,
    in_file,
    plain_name,
    read_tensors,
    safetensors_bytes,
    unwrapped,
)
from companion.lora.pissa import init_pissa_
from companion.training.whole_file import sole_writer, write_whole

__all__ = ["load_lora", "save_lora"]

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"


@typed
def save_lora(model: nn.Module, folder: Path | str) -> None:
    """Write the adapters of ``model`` to ``folder``, as PEFT does.

    Each file is written beside its old self, flushed to the disk and renamed: a process killed
    here leaves the old file or the new one, whole. A merged model is saved like an unmerged one.
    Of PiSSA the trained A and B are saved; whoever opens the folder takes the singular directions
    out of the original base again, as PEFT does.

    Args:
        model: A model with LoRA layers. One that ``torch.compile``, ``DataParallel``, torch's DDP
            or activation checkpointing wraps is saved under the names of the model in it.
        folder: Made if it is not there.

    Raises:
        ValueError: If there is no LoRA layer, an adapter holds NaN or infinity, or PEFT would
            compute something else from the folder: layers that differ in variant, scaling or
            dropout, one layer under two names, PiSSA on tied embeddings, a padding or dilation
            of a convolution that PEFT's A lacks.
        OSError: If it cannot be written, or another process is writing it.

    Example:
        >>> import tempfile
        >>> from companion.lora import add_lora
        >>> model = add_lora(nn.Sequential(nn.Linear(5, 3)), targets=["0"], rank=2, alpha=4.0)
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_lora(model, folder)
        >>> sorted(file.name for file in folder.iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    model = unwrapped(model)
    layers = {plain_name(name): layer for name, layer in lora_layers(model).items()}
    if not layers or "" in layers:
        got = "one itself" if layers else f"none in {type(model).__name__}"
        raise ValueError(f"expected a model that holds LoRA layers, got {got}")
    for name, layer in layers.items():
        check_base(name, layer.base)
    check_slots(model, layers)
    check_saved_pissa(model, layers)
    config = config_of(model, layers)
    text, weights = json.dumps(config, indent=2) + "\n", safetensors_bytes(layers, config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder / _WEIGHTS):
        # The config comes last: where it stands, the weights stand too.
        write_whole(folder / _WEIGHTS, lambda file: file.write_bytes(weights))
        write_whole(folder / _CONFIG, lambda file: file.write_text(text))


@typed
def load_lora(model: nn.Module, folder: Path | str) -> nn.Module:
    """Put the adapters that ``save_lora`` or PEFT wrote to ``folder`` into ``model``, in place.

    The names of the tensors say which modules are adapted. As after ``add_lora``, the adapters can
    be trained and all else is frozen; adapters that the model has already stay as they are. A and B
    get the base's dtype, but at least float32. The global random state is not touched.

    Args:
        model: The base model as it was before it was adapted; for PiSSA, with its whole weights.
        folder: Holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        The same model. It is unchanged if anything is refused.

    Raises:
        FileNotFoundError: If the folder or one of the two files is missing.
        ValueError: If a file is damaged, is not of the same save as the other, holds NaN or
            infinity, asks for a method that we do not have, or belongs to another model; if a layer
            has an adapter already.

    Example:
        >>> import tempfile
        >>> from companion.lora import add_lora
        >>> model = add_lora(nn.Sequential(nn.Linear(5, 3)), targets=["0"], rank=2, alpha=4.0)
        >>> folder = tempfile.mkdtemp()
        >>> save_lora(model, folder)
        >>> load_lora(nn.Sequential(nn.Linear(5, 3)), folder)[0].rank
        2
    """
    folder = Path(folder)
    _check_present(folder)
    settings = read_settings(folder / _CONFIG)
    config = checked_config(settings, folder / _CONFIG)
    adapters, others = by_module(read_tensors(folder / _WEIGHTS, settings))
    if not adapters:
        raise ValueError(f"expected tensors of LoRA in {folder / _WEIGHTS}, got none")
    whole, model = model, unwrapped(model)
    paths = _paths(model)
    bases = {name: _base(model, paths, name) for name in adapters}
    if config.is_pissa:
        for name, base in bases.items():
            check_whole_weight(model, name, base)

    def make_layers() -> dict[str, LoRALayer]:
        layers = {name: _restored(name, bases[name], adapters[name], config) for name in bases}
        _check_base_tensors(model, layers, others)
        return layers

    layers = attach(model, bases.values(), make_layers)
    for name, layer in layers.items():
        parent, _, last = paths[name].rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
    return whole


def _check_present(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder with {_CONFIG} and {_WEIGHTS}, got {folder}")
    if not (folder / _WEIGHTS).exists() and (folder / _PICKLED).exists():
        raise ValueError(
            f"expected {_WEIGHTS} in {folder}, got {_PICKLED}, a pickle, which may run its "
            "author's code: convert it to safetensors, for instance by loading and saving in PEFT"
        )
    if missing := [name for name in (_CONFIG, _WEIGHTS) if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"expected {_CONFIG} and {_WEIGHTS} in {folder}, got no {missing[0]}"
        )


def _paths(model: nn.Module) -> dict[str, str]:
    """Plain name → name in this model, for every module in it that is not within a LoRA layer."""
    inside = tuple(f"{name}." for name in lora_layers(model))
    names = [name for name, _ in model.named_modules() if not name.startswith(inside)]
    return {plain_name(name): name for name in names if plain_name(name)}


def _base(model: nn.Module, paths: Mapping[str, str], name: str) -> nn.Module:
    """The module of this plain name, if it can be adapted."""
    if name not in paths:
        near = difflib.get_close_matches(name, paths)
        raise ValueError(
            f"expected an adapter of this model, got one with a module {name}, which it lacks; "
            f"near: {', '.join(near) or 'none'}"
        )
    base = model.get_submodule(paths[name])
    if isinstance(base, LoRALayer):
        raise ValueError(f"{name}: expected a layer without LoRA, got one that has it")
    check_base(name, base)
    return base


def _check_base_tensors(
    model: nn.Module, layers: Mapping[str, LoRALayer], others: Mapping[str, Tensor]
) -> None:
    """PEFT adds the base weights of adapted embeddings and output layers to the file.

    They must be this model's, or, where PiSSA took its part, near this model's residual.
    """
    own = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    pissa = {name: layer for name, layer in layers.items() if layer.init == "pissa"}
    residuals = {f"{name}.weight": layer.base.weight for name, layer in pissa.items()}
    own |= residuals
    for name, tensor in others.items():
        target = name.replace(".base_layer.", ".")
        if target not in own:
            raise ValueError(f"expected tensors of LoRA, got one called {name}")
        agree = _nearly_equal if target in residuals else _equal
        if own[target].shape != tensor.shape or not agree(own[target].cpu(), tensor):
            raise ValueError(
                f"{target}: expected this model's own values in the file, got others: the base "
                "was changed or resized when the adapter was trained"
            )


def _equal(x: Tensor, y: Tensor) -> bool:
    """Equal, or equal once the finer of the two is rounded as the coarser."""
    return torch.equal(x.to(y.dtype), y) or torch.equal(x, y.to(x.dtype))


def _nearly_equal(x: Tensor, y: Tensor) -> bool:
    """As far as two decompositions of one weight, perhaps rounded to bfloat16, agree."""
    return bool((x.float() - y.float()).norm() <= 0.01 * x.float().norm())


def _restored(
    name: str, base: nn.Module, tensors: Mapping[str, Tensor], config: AdapterConfig
) -> LoRALayer:
    """A LoRA layer on this base with the file's numbers in it."""
    try:
        layer = new_layer(
            base,
            is_dora=config.is_dora,
            rank=config.rank_of(name),
            alpha=config.alpha_of(name),
            dropout=config.dropout,
            scaling=config.scaling,
            generator=torch.Generator(),  # its numbers are replaced: the global state stays as is
        )
        parts = in_file(layer)
        if tensors.keys() != parts.keys():
            raise ValueError(f"expected {', '.join(parts)} in the file, got {', '.join(tensors)}")
        for part, parameter in parts.items():
            if tensors[part].shape != parameter.shape:
                raise ValueError(
                    f"{part}: expected shape {tuple(parameter.shape)} for rank {layer.rank} and "
                    f"{type(base).__name__}, got {tuple(tensors[part].shape)}"
                )
        if config.is_pissa and not is_embedding(base):
            init_pissa_(layer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    with torch.no_grad():
        for part, parameter in parts.items():
            parameter.copy_(tensors[part])
    return layer
