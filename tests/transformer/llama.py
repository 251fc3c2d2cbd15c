"""Models of three sizes and the same in transformers, whose Llama is the oracle."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from companion.transformer import KVCache, Transformer, TransformerConfig, torch_attention

BATCH, LENGTH = 3, 13


def sizes(**changes) -> TransformerConfig:
    settings = {"vocabulary": 31, "width": 24, "layers": 2, "heads": 6, "key_heads": 2}
    settings |= {"hidden": 29, "max_length": 17, "rotary_base": 100.0, "epsilon": 1e-3}
    return TransformerConfig(**settings | changes)


def model_of(config: TransformerConfig, attention=torch_attention) -> Transformer:
    """In float64, its weights large enough that each part counts."""
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config, attention=attention, generator=generator).double()
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, float("norm" in name), 0.3, generator=generator)
    return model


def tokens_of(config: TransformerConfig, length: int = LENGTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(config.vocabulary, (BATCH, length), generator=generator)


def sensitivity(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """Σ|w ∂logit/∂w| of each logit at the last position, B V: its change per share of a weight."""
    logits, weights = model(tokens)[:, -1], list(model.parameters())
    sums = []
    for logit in logits.flatten():
        slopes = torch.autograd.grad(logit, weights, retain_graph=True)
        sums.append(sum((s * w).abs().sum() for s, w in zip(slopes, weights, strict=True)))
    return torch.stack(sums).view_as(logits).detach()


def float32_bound(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """Largest error of the logits at the last position in float32, B V.

    A sum of n products is the exact sum for weights off by at most n·ε of each. A norm, an angle
    and a softmax add a few ε, put down here to the weights before them.
    """
    config = model.config
    summed = max(config.width, config.hidden, config.max_length) + 8
    return summed * torch.finfo(torch.float32).eps * sensitivity(model, tokens)


def poisoned_cache(config: TransformerConfig, **settings) -> KVCache:
    """Entries that nobody wrote are NaN."""
    cache = KVCache(config, **{"batch": BATCH, "dtype": torch.float64} | settings)
    cache._entries_2LBGSD.fill_(torch.nan)
    return cache


def llama_like(model: Transformer) -> LlamaForCausalLM:
    """A Llama with the model's weights, in float64 where Llama's own code falls to float32."""
    config = model.config
    settings = LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_heads,
        intermediate_size=config.hidden,
        max_position_embeddings=config.max_length,
        rope_parameters={"rope_type": "default", "rope_theta": config.rotary_base},
        rms_norm_eps=config.epsilon,
        tie_word_embeddings=config.tied,
        bos_token_id=None,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        llama = LlamaForCausalLM(settings).double()
    for module in list(llama.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                norm = torch.nn.RMSNorm(config.width, eps=config.epsilon, dtype=torch.float64)
                setattr(module, name, norm)
    named = model.state_dict().items()
    llama.load_state_dict({n if n == "lm_head.weight" else f"model.{n}": w for n, w in named})
    llama.model.rotary_emb = ExactRotary(llama.model.rotary_emb)
    return llama


class ExactRotary(torch.nn.Module):
    """Llama's angles are of float32 in any model; these are the same in float64."""

    def __init__(self, rounded: torch.nn.Module) -> None:
        super().__init__()
        self.rounded, config = rounded, rounded.config
        self.width = config.hidden_size // config.num_attention_heads
        self.base = config.rope_parameters["rope_theta"]

    def forward(self, x, position_ids):
        angles = position_ids[..., None] / self.base ** (
            torch.arange(0, self.width, 2).double() / self.width
        )
        turns = torch.cat([angles, angles], dim=-1)
        # In float32 the angle is rounded a few times, and its cosine too.
        bound = 4 * (1 + angles.max()) * torch.finfo(torch.float32).eps
        cos, sin = self.rounded(x, position_ids)
        assert (turns.cos() - cos).abs().max() <= bound
        assert (turns.sin() - sin).abs().max() <= bound
        return turns.cos(), turns.sin()
