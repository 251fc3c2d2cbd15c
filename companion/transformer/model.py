"""A decoder-only transformer of the Llama kind.

    x ← x + attention(norm(x)),    x ← x + MLP(norm(x)),    logits = head(norm(x))

Source: Touvron et al. 2023, arXiv:2302.13971, §2.2. Submodules are named as in transformers'
Llama: a state dict is one of theirs without the prefix ``model.``.
Dimension key: B batch, T positions, S keys, D width, H query heads, G key heads, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from companion.checks import typed
from companion.transformer.attention import SelfAttention, torch_attention
from companion.transformer.cache import KVCache
from companion.transformer.checks import check_pass
from companion.transformer.config import TransformerConfig
from companion.transformer.linear import new_linear
from companion.transformer.rotary import rotation_at

__all__ = ["Block", "RMSNorm", "Transformer"]


class RMSNorm(nn.Module):
    """w · x / √(mean(x²) + ε), computed in float32 or wider, in x's dtype.

    Zhang & Sennrich 2019, arXiv:1910.07467.

    Example:
        >>> RMSNorm(2, epsilon=1e-5)(torch.tensor([3.0, -4.0])).tolist()  # divided by √12.5
        [0.848..., -1.131...]
    """

    def __init__(self, width: int, *, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Rows of root mean square 1, times the weights."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.epsilon)
        return (self.weight * (wide * scale)).to(x.dtype)


class GatedMLP(nn.Module):
    """down(SiLU(gate(x)) · up(x)): SwiGLU, Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, config: TransformerConfig, *, generator: torch.Generator | None) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden
        self.gate_proj = new_linear(width, hidden, generator=generator)
        self.up_proj = new_linear(width, hidden, generator=generator)
        self.down_proj = new_linear(hidden, width, generator=generator, summands=2 * config.layers)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Each position by itself."""
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Block(nn.Module):
    """One layer; arguments as ``SelfAttention``'s, ``rotation`` as ``rotation_at`` gives it."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        attention: Callable = torch_attention,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, epsilon=config.epsilon)
        self.self_attn = SelfAttention(config, attention=attention, generator=generator)
        self.post_attention_layernorm = RMSNorm(config.width, epsilon=config.epsilon)
        self.mlp = GatedMLP(config, generator=generator)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], rotation: tuple[Tensor, Tensor], **seen: object
    ) -> Float[Tensor, "B T D"]:
        """The vectors with what they read from others and from themselves added."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotation, **seen)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Transformer(nn.Module):
    """Tokens in, logits of each next token out.

    The parts come from outside. Attention is an argument. A precision is set around the model
    (``torch.autocast``) or on it (``.to(torch.bfloat16)``). A projection is a plain ``nn.Linear``
    that any module may replace: ``model.layers[0].self_attn.q_proj = Wrapped(...)``.

    Args:
        config: The sizes.
        attention: See ``SelfAttention``.
        generator: Source of the first weights, on the CPU; torch's own unless told.

    Example:
        >>> config = TransformerConfig(
        ...     vocabulary=11, width=12, layers=2, heads=3, hidden=20, max_length=16
        ... )
        >>> model = Transformer(config, generator=torch.Generator().manual_seed(0))
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 11])
    """

    @typed
    def __init__(
        self,
        config: TransformerConfig,
        *,
        attention: Callable = torch_attention,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        weight_VD = new_linear(config.width, config.vocabulary, generator=generator).weight.data
        self.embed_tokens = nn.Embedding.from_pretrained(weight_VD, freeze=False)
        self.layers = nn.ModuleList(
            Block(config, attention=attention, generator=generator) for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.width, epsilon=config.epsilon)
        self.lm_head = new_linear(config.width, config.vocabulary, generator=generator)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self,
        tokens_BT: Int[Tensor, "B T"],
        *,
        cache: KVCache | None = None,
        mask: Bool[Tensor, "*B T S"] | None = None,
        positions: Int[Tensor, "*B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of the token after each.

        Args:
            tokens_BT: At least one position.
            cache: Entries of earlier tokens, which these are added to; not with gradients.
            mask: True where a token may see a key, of shape T S, B 1 T S or 1 1 T S, with
                S = cache.length + T. Every token must see one. None is causal: all before it.
            positions: Of the tokens; cache.length, cache.length + 1, … unless told. For a tree of
                drafts, the depths.

        Raises:
            TypeError, ValueError: An argument is not as above, or there is no room. The cache is
                then as it was.
        """
        return self._pass(self.lm_head, tokens_BT, cache, mask, positions)

    def hidden_states(
        self,
        tokens_BT: Int[Tensor, "B T"],
        *,
        cache: KVCache | None = None,
        mask: Bool[Tensor, "*B T S"] | None = None,
        positions: Int[Tensor, "*B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The normed vectors that ``lm_head`` makes logits of; arguments as of the call."""
        return self._pass(nn.Identity(), tokens_BT, cache, mask, positions)

    def _pass(
        self,
        head: nn.Module,
        tokens_BT: Tensor,
        cache: KVCache | None,
        mask: Tensor | None,
        positions: Tensor | None,
    ) -> Tensor:
        past = 0 if cache is None else cache.length
        check_pass(tokens_BT, mask, positions, past=past, config=self.config)
        count = tokens_BT.shape[1]
        if positions is None:
            positions = torch.arange(past, past + count, device=tokens_BT.device)
        x_BTD = self.embed_tokens(tokens_BT)
        rotation = rotation_at(positions, self.config, dtype=x_BTD.dtype)
        for number, block in enumerate(self.layers):
            x_BTD = block(x_BTD, rotation, mask=mask, cache=cache, layer=number)
        result = head(self.norm(x_BTD))
        if cache is not None:  # last of all, so that a pass that fails adds to no layer
            cache.advance(count)
        return result
