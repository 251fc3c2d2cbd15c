"""A language model and a tokenizer of a few kilobytes, made here: no test needs a download."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END, BEGIN = "<|end|>", "<|begin|>"
CHAT = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
SENTENCES = ["the cat sat on the mat", "a dog ran", "colour: red", "the answer is no", "12 + 3 ="]


def tokenizer(
    *, begins: bool = False, ends: bool = False, chat: str | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 tokens; on request with a begin or end token put round every text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END, BEGIN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES * 5, trainer)
    if begins or ends:
        around = [BEGIN] * begins + ["$A"] + [END] * ends
        special = [(token, inner.token_to_id(token)) for token in (BEGIN, END)]
        inner.post_processor = processors.TemplateProcessing(
            single=" ".join(around), special_tokens=special
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END,
        bos_token=BEGIN if begins else None,
        chat_template=chat,
        clean_up_tokenization_spaces=False,
    )


def llama(*, seed: int = 0, **settings: int) -> LlamaForCausalLM:
    """Two layers of width 12, all weights random."""
    sizes = {
        "vocab_size": 331,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**sizes | settings)).eval()


def save(folder: Path, model: torch.nn.Module | None = None, **of_tokenizer) -> str:
    """Write model and tokenizer as ``from_pretrained`` reads them; the folder's name."""
    (model or llama()).save_pretrained(folder)
    tokenizer(**of_tokenizer).save_pretrained(folder)
    return str(folder)


def write_jsonl(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path
