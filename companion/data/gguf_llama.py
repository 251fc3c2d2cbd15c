"""A Llama model and its tokenizer, read from a quantised GGUF file.

llama.cpp stores each query and key head with its rotary pairs interleaved, (0, D/2, 1, D/2+1, …);
transformers keeps the two halves apart. ``_halves_apart`` undoes the interleaving.

Source: the GGUF format of llama.cpp, as documented with its ``gguf`` package.
Dimension key: H heads, D width of one head, I inputs, V vocabulary.
"""

from pathlib import Path

import torch
from torch import Tensor

__all__ = ["GGUFLlama"]

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # token type of markers such as <|im_start|>


class GGUFLlama:
    """Reader of one GGUF file with a Llama model. Needs the packages gguf and transformers.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.reader = GGUFReader(path)

    def value(self, key: str, default=None):
        """Metadata stored under ``key``, such as ``"llama.block_count"``."""
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()

    def config(self):
        """The model's shape as a ``transformers.LlamaConfig``."""
        from transformers import LlamaConfig

        names = {tensor.name for tensor in self.reader.tensors}
        return LlamaConfig(
            vocab_size=len(self.value("tokenizer.ggml.tokens")),
            hidden_size=self.value("llama.embedding_length"),
            intermediate_size=self.value("llama.feed_forward_length"),
            num_hidden_layers=self.value("llama.block_count"),
            num_attention_heads=self.value("llama.attention.head_count"),
            num_key_value_heads=self.value("llama.attention.head_count_kv"),
            max_position_embeddings=self.value("llama.context_length"),
            rms_norm_eps=self.value("llama.attention.layer_norm_rms_epsilon"),
            rope_parameters={
                "rope_type": "default",
                "rope_theta": self.value("llama.rope.freq_base"),
            },
            bos_token_id=self.value("tokenizer.ggml.bos_token_id"),
            eos_token_id=self.value("tokenizer.ggml.eos_token_id"),
            pad_token_id=self.value("tokenizer.ggml.padding_token_id"),
            tie_word_embeddings="output.weight" not in names,
        )

    def weights(self) -> dict[str, Tensor]:
        """Dequantised weights, float32, under the names that ``LlamaForCausalLM`` uses."""
        from gguf import dequantize

        heads = {
            "attn_q": self.value("llama.attention.head_count"),
            "attn_k": self.value("llama.attention.head_count_kv"),
        }
        weights = {}
        for tensor in self.reader.tensors:
            *layer, stem, kind = tensor.name.split(".")
            weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            if stem in heads:
                weight = _halves_apart(weight, heads=heads[stem])
            prefix = f"model.layers.{layer[1]}." if layer else ""
            weights[f"{prefix}{_NAMES[stem]}.{kind}"] = weight
        return weights

    def tokenizer(self):
        """The byte-level BPE tokenizer, as a ``transformers.PreTrainedTokenizerFast``."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        tokens = self.value("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in self.value("tokenizer.ggml.merges")]
        bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        # SmolLM writes numbers digit by digit: "tokenizer.ggml.pre" is "smollm".
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
        bpe.decoder = decoders.ByteLevel()
        types = self.value("tokenizer.ggml.token_type")
        bpe.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, kind in zip(tokens, types, strict=True)
                if kind == _CONTROL
            ]
        )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe,
            bos_token=tokens[self.value("tokenizer.ggml.bos_token_id")],
            eos_token=tokens[self.value("tokenizer.ggml.eos_token_id")],
            pad_token=tokens[self.value("tokenizer.ggml.padding_token_id")],
            unk_token=tokens[self.value("tokenizer.ggml.unknown_token_id")],
            model_max_length=self.value("llama.context_length"),
            clean_up_tokenization_spaces=False,
        )
        tokenizer.chat_template = self.value("tokenizer.chat_template")
        return tokenizer


def _halves_apart(weight: Tensor, *, heads: int) -> Tensor:
    """Rows of each head from (0, D/2, 1, D/2+1, …) to (0, 1, …, D/2, D/2+1, …)."""
    rows, inputs = weight.shape
    return (
        weight.view(heads, rows // heads // 2, 2, inputs)
        .transpose(1, 2)
        .reshape(rows, inputs)
        .contiguous()
    )
