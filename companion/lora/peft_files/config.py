"""What PEFT's ``adapter_config.json`` says about an adapter: reading it, and writing ours.

Source: PEFT 0.21, ``LoraConfig``, whose field names the file holds. Difference: a setting that
changes the result and that this package lacks is an error here, where PEFT warns and drops it.
Chapter: course/07_lora.ipynb.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import regex  # as ``re``, and a match can be given up
from torch import nn

from companion.lora.layer import LoRALayer, Scaling
from companion.lora.peft_files.tensors import plain_name

__all__ = ["AdapterConfig", "checked_config", "config_of", "read_settings"]

T = TypeVar("T")

_END_OF_NAME = r"(.*\.)?({})$"
_MATCH_LIMIT_S = 1

# Read here, whatever they hold.
_READ = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern",
    "use_rslora", "use_dora", "init_lora_weights", "bias",
}  # fmt: skip
# Where the file came from, which modules are adapted (the weights' names say it too, and say it
# exactly), and settings that only speak when another one is switched on.
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision",
    "task_type", "runtime_config", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "fan_in_fan_out", "megatron_core", "qalora_group_size", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip
# Starting points that leave the base as it is; PEFT also takes False and null.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a folder that say what its tensors mean.

    Args:
        rank, alpha: R and α of every layer that no pattern names.
        rank_pattern, alpha_pattern: Regular expression for the end of a layer's name → its own R
            or α; the first that fits counts.
        dropout: Probability, in training.
        scaling: Whether s is α/R or α/√R.
        is_dora: Whether every layer has a magnitude.
        is_pissa: Whether the linear layers' bases are residuals of their singular values.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    dropout: float
    scaling: Scaling
    is_dora: bool
    is_pissa: bool

    def rank_of(self, name: str) -> int:
        """R of the layer with this dotted name."""
        return _first_match(self.rank_pattern, name, self.rank)

    def alpha_of(self, name: str) -> float:
        """α of the layer with this dotted name."""
        return _first_match(self.alpha_pattern, name, self.alpha)


def read_settings(file: Path) -> dict[str, Any]:
    """All that an ``adapter_config.json`` says.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON object.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # wrong JSON, or bytes that are no UTF-8
        raise ValueError(f"expected JSON in {file}, got something else ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"expected a JSON object in {file}, got {type(settings).__name__}")
    return settings


def checked_config(settings: Mapping[str, Any], file: Path) -> AdapterConfig:
    """What we follow of the settings that are in ``file``.

    Raises:
        ValueError: If it is not LoRA, lacks a setting, or has one that we cannot follow.
    """
    try:
        return _checked(settings)
    except ValueError as error:
        raise ValueError(f"{error}; in {file}") from error


def config_of(model: nn.Module, layers: Mapping[str, LoRALayer]) -> dict[str, Any]:
    """The settings to write for these layers of ``model``, from their plain names.

    Raises:
        ValueError: If one folder in PEFT's format cannot hold layers that differ as these do.
    """
    # PEFT leaves an embedding as it is under "pissa", so embeddings do not count.
    inner = {name: x for name, x in layers.items() if not isinstance(x.base, nn.Embedding)}
    is_pissa = _common(inner, lambda layer: layer.init, "init", default="lora") == "pissa"
    rank, rank_pattern = _pattern({name: layer.rank for name, layer in layers.items()})
    alpha, alpha_pattern = _pattern({name: layer.alpha for name, layer in layers.items()})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if _is_causal_lm(model) else None,
        "base_model_name_or_path": _origin(model),
        "inference_mode": True,
        "target_modules": _targets(model, layers),
        "r": rank,
        "rank_pattern": rank_pattern,
        "lora_alpha": alpha,
        "alpha_pattern": alpha_pattern,
        "lora_dropout": _common(layers, lambda layer: layer.dropout, "dropout"),
        "use_rslora": _common(layers, lambda layer: layer.scaling, "scaling") != "alpha/r",
        "use_dora": _common(layers, lambda layer: layer.variant == "dora", "use of DoRA"),
        "init_lora_weights": "pissa" if is_pissa else True,
        "fan_in_fan_out": any(type(layer.base).__name__ == "Conv1D" for layer in layers.values()),
        "bias": "none",
        "modules_to_save": None,
    }


def _checked(values: Mapping[str, Any]) -> AdapterConfig:
    if (kind := values.get("peft_type")) != "LORA":
        raise ValueError(f"peft_type: expected 'LORA', got {kind!r}")
    if missing := [key for key in ("r", "lora_alpha") if key not in values]:
        raise ValueError(f"expected the settings r and lora_alpha, got none called {missing[0]!r}")
    for key, value in values.items():
        if key not in _READ | _WITHOUT_EFFECT and value not in (None, False, "", [], {}):
            raise ValueError(f"{key}: expected null, since no layer here has it, got {value!r}")
    if (bias := values.get("bias", "none")) != "none":
        raise ValueError(f"bias: expected 'none', since the base stays frozen, got {bias!r}")
    start = values.get("init_lora_weights", True)
    if start != "pissa" and start not in _PLAIN_STARTS:
        raise ValueError(
            "init_lora_weights: expected 'pissa', or a start that leaves the base as it is "
            f"(true, false, 'gaussian', 'eva', 'orthogonal'), got {start!r}"
        )
    if start == "pissa" and _flag(values, "use_dora"):
        raise ValueError("use_dora: expected false with init_lora_weights 'pissa', got true")
    return AdapterConfig(
        rank=_integer(values["r"], "r"),
        alpha=_number(values["lora_alpha"], "lora_alpha"),
        rank_pattern=_read_pattern(values, "rank_pattern", _integer),
        alpha_pattern=_read_pattern(values, "alpha_pattern", _number),
        dropout=_number(values.get("lora_dropout", 0.0), "lora_dropout"),
        scaling="alpha/sqrt(r)" if _flag(values, "use_rslora") else "alpha/r",
        is_dora=_flag(values, "use_dora"),
        is_pissa=start == "pissa",
    )


def _integer(value: Any, key: str) -> int:
    if type(value) is not int:
        raise ValueError(f"{key}: expected an integer, got {value!r}")
    return value


def _number(value: Any, key: str) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{key}: expected a number, got {value!r}")
    return value


def _flag(values: dict[str, Any], key: str) -> bool:
    if type(value := values.get(key, False)) is not bool:
        raise ValueError(f"{key}: expected true or false, got {value!r}")
    return value


def _read_pattern(values: dict[str, Any], key: str, read: Callable[[Any, str], T]) -> dict[str, T]:
    pattern = values.get(key)
    if not isinstance(pattern := {} if pattern is None else pattern, dict):
        raise ValueError(f"{key}: expected names and values, got {pattern!r}")
    for expression in pattern:
        try:
            regex.compile(_END_OF_NAME.format(expression))
        except regex.error as error:
            raise ValueError(
                f"{key}: expected regular expressions, got {expression!r} ({error})"
            ) from error
    return {name: read(value, f"{key}[{name!r}]") for name, value in pattern.items()}


def _first_match(pattern: Mapping[str, T], name: str, default: T) -> T:
    for expression, value in pattern.items():
        try:
            if regex.match(_END_OF_NAME.format(expression), name, timeout=_MATCH_LIMIT_S):
                return value
        except TimeoutError as error:
            raise ValueError(
                f"expected regular expressions that are matched in {_MATCH_LIMIT_S} s, got "
                f"{expression!r}, which takes longer on {name!r}"
            ) from error
    return pattern.get(name, default)  # a name may hold signs that mean something else in re


def _pattern(values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """The commonest value, and an expression for each layer that has another one."""
    # JSON has one kind of number, but readers that want an integer refuse 16.0.
    values = {name: int(x) if x == int(x) else x for name, x in values.items()}
    default = Counter(values.values()).most_common(1)[0][0]
    return default, {f"^{re.escape(n)}": x for n, x in values.items() if x != default}


def _common(
    layers: Mapping[str, LoRALayer],
    of: Callable[[LoRALayer], T],
    what: str,
    default: T | None = None,
) -> T | None:
    """The one value that all layers share."""
    first: dict[T, str] = {}
    for name, layer in layers.items():
        first.setdefault(of(layer), name)
    if len(first) > 1:
        (one, name), (other, where), *_ = first.items()
        raise ValueError(
            f"{what}: expected the same in all layers, since a file holds one value, got {one!r} "
            f"in {name!r} and {other!r} in {where!r}"
        )
    return next(iter(first), default)


def _targets(model: nn.Module, layers: Mapping[str, LoRALayer]) -> list[str] | str:
    """The shortest of three spellings with which PEFT finds these modules and no others."""
    names = [plain_name(name) for name, _ in model.named_modules()]
    own = [name for name in names if not any(up in layers for up in _ancestors(name))]
    last_steps = sorted({name.rpartition(".")[2] for name in layers})
    for targets in (last_steps, list(layers)):
        ends = tuple(f".{target}" for target in targets)
        if {name for name in own if name in targets or name.endswith(ends)} == set(layers):
            return targets
    return "|".join(map(re.escape, layers))  # a string is one expression for the whole name


def _ancestors(name: str) -> Iterator[str]:
    """a and a.b for a.b.c."""
    while name := name.rpartition(".")[0]:
        yield name


def _is_causal_lm(model: nn.Module) -> bool:
    # PEFT's wrapper for this task calls the method, which only models of transformers have.
    named = type(model).__name__.endswith("ForCausalLM")
    return named and hasattr(model, "prepare_inputs_for_generation")


def _origin(model: nn.Module) -> str | None:
    origin = getattr(getattr(model, "config", None), "name_or_path", None)
    return origin if isinstance(origin, str) and origin else None
