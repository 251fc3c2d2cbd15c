"""Tiny random language models, and PEFT's adapters on them with the same numbers as ours."""

import copy
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from companion.lora import LoRAEmbedding, lora_layers

VOCABULARY = 37


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def llama(*, seed: int = 0, tied: bool = False) -> LlamaForCausalLM:
    """Two layers of width 24; queries are 24 wide, keys and values 8."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
    )
    return _built(LlamaForCausalLM, config, seed)


def gpt2(*, seed: int = 0) -> GPT2LMHeadModel:
    """Two layers of width 24, whose linear layers are ``Conv1D``."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=32,
        n_embd=24,
        n_layer=2,
        n_head=3,
        bos_token_id=None,
        eos_token_id=0,
    )
    return _built(GPT2LMHeadModel, config, seed)


def tokens(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(VOCABULARY, shape, generator=seeded(seed))


def randomise_(model: nn.Module, *, seed: int = 1, size: float = 0.3) -> nn.Module:
    """Fill every adapter with numbers, as training would: both factors, and magnitudes."""
    generator = seeded(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            for parameter in layer.adapter_parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                if parameter.ndim == 1:
                    parameter *= 1 + size * noise
                else:
                    parameter.copy_(size * noise)
    return model


def peft_twin(base: nn.Module, ours: nn.Module, **config) -> PeftModel:
    """PEFT on a copy of ``base``, with the factors and magnitudes that ``ours`` has now."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks for a name that transformers 5 has deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        twin = get_peft_model(copy.deepcopy(base), LoraConfig(**config))
    copy_factors_(twin, ours)
    return twin.train(ours.training)


@torch.no_grad()
def copy_factors_(twin: PeftModel, ours: nn.Module) -> None:
    for name, layer in lora_layers(ours).items():
        theirs = twin.base_model.model.get_submodule(name)
        if isinstance(layer, LoRAEmbedding):
            theirs.lora_embedding_A["default"].copy_(layer.a_RV)
            theirs.lora_embedding_B["default"].copy_(layer.b_DR)
            continue
        a, b, *magnitude = layer.adapter_parameters()
        theirs.lora_A["default"].weight.copy_(a)
        theirs.lora_B["default"].weight.copy_(b)
        if magnitude:
            theirs.lora_magnitude_vector["default"].weight.copy_(magnitude[0])


def assert_same_gradient(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to four digits of the largest entry, which is not zero."""
    size = theirs.grad.abs().max().item()
    assert size > 0
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4 * size, rtol=0)


def _built(kind: type, config, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()
