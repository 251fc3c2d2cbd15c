"""Small models, adapted by us and by PEFT, and ways to damage their folders."""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from companion.lora import add_lora, lora_parameters
from companion.lora.peft_files.folder import load_lora
from tests.language.tiny_language_model import llama

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SETTINGS = {"rank": 3, "alpha": 7.5}
OF_PEFT = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}
# What PEFT says of models and settings that are meant here.
EXPECTED_WARNINGS = (
    "`is_gradient_checkpointing` is deprecated",
    "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",
    "fan_in_fan_out is set to",
    "Setting `save_embedding_layers` to `True`",
    "Could not identify embedding layer",
)


class Mixed(nn.Module):
    """An embedding, a convolution and two linear layers, for indices of shape (B, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(13, 6)
        self.conv = nn.Conv2d(6, 10, (3, 2), stride=2, padding=1)
        self.blocks = nn.ModuleDict({"up": nn.Linear(10, 8), "down": nn.Linear(8, 5, bias=False)})

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.table(index).movedim(-1, 1)).movedim(1, -1)
        return self.blocks["down"](self.blocks["up"](y).tanh())


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def gpt2() -> nn.Module:
    sizes = {"vocab_size": 37, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}
    return seeded(lambda: GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)))


MODELS = {
    "llama": lambda: llama(tie_word_embeddings=False),
    "tied llama": lambda: llama(tie_word_embeddings=True),
    "gpt2": gpt2,
    "mixed": lambda: seeded(Mixed),
}
ATTENTION = ["q_proj", "v_proj"]
# (model, targets, the variants that PEFT and we both have for these layers)
CASES = [
    (name, targets, variant)
    for name, targets, variants in [
        ("llama", ["q_proj", "up_proj"], ("lora", "rslora", "dora", "pissa")),
        ("tied llama", ["k_proj", "down_proj"], ("lora", "rslora", "dora", "pissa")),
        ("tied llama", ["embed_tokens", "v_proj", "lm_head"], ("lora", "rslora")),
        ("gpt2", ["c_attn", "mlp.c_fc"], ("lora", "rslora", "dora", "pissa")),
        ("gpt2", ["wte", "c_proj"], ("lora", "rslora")),
        ("mixed", ["table", "conv", "up"], ("lora", "rslora")),
        ("mixed", ["up", "down"], ("dora", "pissa")),
    ]
    for variant in variants
]
EACH = pytest.mark.parametrize(("name", "targets", "variant"), CASES)


def outputs(name: str, model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, 7, 5) if name == "mixed" else (2, 7)
    index = torch.randint(13, shape, generator=generator)
    with torch.no_grad():
        y = model(index)
    return y if name == "mixed" else y.logits


def disturb_(parameters: Iterable[nn.Parameter], seed: int = 2) -> None:
    """As if trained: no factor is zero, and none is where it started."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def ours(name: str, targets: Sequence[str], variant: str = "lora", **settings: Any) -> nn.Module:
    """A model that we adapted and disturbed."""
    model = add_lora(
        MODELS[name](),
        targets=targets,
        variant=variant,
        generator=torch.Generator().manual_seed(3),
        **SETTINGS | settings,
    )
    disturb_(lora_parameters(model))
    return model


def silently(function: Callable, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", re.escape(message))
        return function(*arguments, **options)


def of_peft(name: str, folder: Path, **settings: Any) -> nn.Module:
    """A model that PEFT adapted, disturbed and saved."""
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 7} | settings)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = silently(peft.get_peft_model, MODELS[name](), config).eval()
    disturb_(p for key, p in model.named_parameters() if ".lora_" in key)
    silently(model.save_pretrained, folder)
    return model


def opened_in_peft(name: str, folder: Path) -> nn.Module:
    return silently(peft.PeftModel.from_pretrained, MODELS[name](), folder)


def adapted_by_peft(model: nn.Module) -> list[str]:
    names = [name for name, m in model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    return [name.removeprefix("base_model.model.") for name in names]


def change_config(folder: Path, **changes: Any) -> None:
    """Write settings as another program would; a value of ... takes the setting out."""
    change_tensors(folder, lambda tensors: None)
    settings = json.loads((folder / CONFIG).read_text()) | changes
    settings = {key: value for key, value in settings.items() if value is not ...}
    (folder / CONFIG).write_text(json.dumps(settings))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Write the tensors anew, without a word on what belongs to them."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def everything(model: nn.Module) -> tuple:
    """Bits, flags and modules: what a refused call must leave alone."""
    state = {key: (t.dtype, t.numpy(force=True).tobytes()) for key, t in model.state_dict().items()}
    parameters = {key: (id(p), p.requires_grad) for key, p in model.named_parameters()}
    return state, parameters, [(key, id(m), m.training) for key, m in model.named_modules()]


def refuse(model: nn.Module, folder: Path, match: str, kind: type[Exception] = ValueError) -> None:
    before = everything(model)
    with pytest.raises(kind, match=match):
        load_lora(model, folder)
    assert everything(model) == before
