"""A pretrained language model, and records as sequences that it can read."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from companion.data import smollm2
from companion.language.records import Example, encode_record
from companion.training.process_group import is_first, say
from companion.training.seeds import stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "MAX_TOKENS",
    "check_vocabulary",
    "encode_records",
    "longest_sequence",
    "pretrained",
    "split",
]

MAX_TOKENS = 512


def pretrained(
    name: str, *, dtype: torch.dtype
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A causal language model and its tokenizer, on the CPU.

    Args:
        name: "smollm2" for ``companion.data.smollm2()``; else a name or folder for transformers.
        dtype: Of the weights.

    Raises:
        ImportError: If transformers is not installed.
        OSError: If transformers finds nothing of that name.
    """
    if name == "smollm2":
        return smollm2(dtype=dtype)
    if find_spec("transformers") is None:
        raise ImportError(
            "this recipe needs the package 'transformers'; to install it: "
            "pip install 'companion[pretrained]'"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not is_first():
        logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    return model, AutoTokenizer.from_pretrained(name)


def longest_sequence(model: "PreTrainedModel", asked: int | None) -> int:
    """Tokens of the longest sequence: those asked for, or the model's own length up to 512.

    Raises:
        ValueError: If more are asked for than the model has positions.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    if asked is None:
        return min(most or MAX_TOKENS, MAX_TOKENS)
    if most is not None and asked > most:
        raise ValueError(f"expected --max-tokens of at most {most}, the model's own, got {asked}")
    return asked


def encode_records(
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
    file: Path,
) -> list[Example]:
    """One example for each record of a file; says how many completions had to be cut.

    Raises:
        ValueError: If a record cannot be encoded; the message says which.
    """
    examples = []
    for number, record in enumerate(records, start=1):
        try:
            examples.append(encode_record(tokenizer, record, max_tokens=max_tokens))
        except ValueError as error:
            raise ValueError(f"{file}, record {number}: {error}") from error
    if cut := sum(example.cut_tokens > 0 for example in examples):
        say(f"{file}: {cut} of {len(examples)} completions cut to fit into {max_tokens} tokens")
    return examples


def split(
    examples: Sequence[Example], *, fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, drawn at random, at least one of each.

    Raises:
        ValueError: If that leaves nothing to train on.
    """
    count = max(1, round(fraction * len(examples)))
    if count >= len(examples):
        raise ValueError(
            f"expected more than {count} records, as many as are held out, got {len(examples)}"
        )
    generator = torch.Generator().manual_seed(stream(seed, "split"))
    order = torch.randperm(len(examples), generator=generator).tolist()
    shuffled = [examples[i] for i in order]
    return shuffled[count:], shuffled[:count]


def check_vocabulary(model: "PreTrainedModel", examples: Sequence[Example]) -> None:
    """Refuse tokens that the model has no embedding for.

    Raises:
        ValueError: If there are any.
    """
    known = model.get_input_embeddings().num_embeddings
    largest = max(max(example.tokens) for example in examples)
    if largest >= known:
        raise ValueError(
            f"expected tokens below {known}, the model's vocabulary, got {largest}: "
            "the tokenizer belongs to another model"
        )
