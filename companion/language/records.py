"""Text to learn from: records as token sequences, right-padded batches, and the loss on them.

A record is a prompt with its completion, a plain text, or a chat. The loss is asked for only on
the completion: the prompt is given at use, so a model need not learn to write it.
Dimension key: B sequences, T tokens, D width, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from companion.language.jsonl import read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "NO_LABEL",
    "Example",
    "collate",
    "completion_loss",
    "encode",
    "encode_record",
    "held_out_loss",
    "predicted_tokens",
    "read_jsonl",
]

NO_LABEL = -100  # what torch's cross-entropy and transformers' models leave out


class Example(NamedTuple):
    """One sequence of tokens; the loss is on ``tokens[prompt_tokens:]`` alone."""

    tokens: list[int]
    prompt_tokens: int
    cut_tokens: int = 0  # of the completion, left out so that the sequence fits


def encode(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, completion: str, *, max_tokens: int
) -> Example:
    """Tokens of a prompt, its completion and the end-of-sequence token.

    The prompt's tokens are those that it has alone, since that is what a model is given when it
    is used: no token reaches over the boundary. A sequence that is too long loses the end of its
    completion, and with it the end-of-sequence token, for the text did not end there.

    Args:
        tokenizer: Of transformers. Its begin-of-sequence token is put first if it does so itself.
        prompt: May be empty: then the loss is on the whole text.
        completion: What to learn.
        max_tokens: Longest sequence.

    Raises:
        ValueError: If the completion is empty, the tokenizer has no end-of-sequence token, or the
            prompt leaves no room for one token of the completion.
    """
    return _example(
        tokenizer, _begin(tokenizer, prompt), _continue(tokenizer, prompt, completion), max_tokens
    )


def encode_record(
    tokenizer: "PreTrainedTokenizerBase", record: Mapping[str, Any], *, max_tokens: int
) -> Example:
    """Tokens of one record of ``read_jsonl``, in whichever of the three forms it comes.

    A chat is written with the tokenizer's own template, and the loss is on the assistant's last
    message and on the token that ends it.

    Raises:
        ValueError: As ``encode``; and for a chat, if the tokenizer has no template, or one that
            writes the earlier messages differently once the answer follows.
    """
    if "text" in record:
        return encode(tokenizer, "", record["text"], max_tokens=max_tokens)
    if "messages" not in record:
        return encode(tokenizer, record["prompt"], record["completion"], max_tokens=max_tokens)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            'expected a tokenizer with a chat template for {"messages"}, got one without; '
            'write the records as {"prompt", "completion"}'
        )
    messages = record["messages"]
    prompt = tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(prompt):
        raise ValueError(
            "expected a chat template that writes the earlier messages alike with and without the "
            f"answer, got {whole[: len(prompt)]!r} in place of {prompt!r}"
        )
    # The template writes the special tokens itself.
    prompt_ids, answer_ids = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in (prompt, whole.removeprefix(prompt))
    )
    if tokenizer.eos_token_id in answer_ids:  # what follows is layout between two messages
        answer_ids = answer_ids[: answer_ids.index(tokenizer.eos_token_id)]
    return _example(tokenizer, prompt_ids, answer_ids, max_tokens)


def predicted_tokens(example: Example) -> int:
    """How many tokens of a sequence carry a loss; the very first has nothing to be told from."""
    return len(example.tokens) - max(example.prompt_tokens, 1)


def collate(
    examples: Sequence[Example], *, pad_token: int, device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Token ids and labels of a batch, padded on the right to its longest sequence.

    No attention mask is needed: in a causal model a position sees itself and what stands before
    it, and the padding stands after every real token. The padding's own outputs carry no label.

    Args:
        examples: At least one.
        pad_token: Any valid token id; it changes nothing.
        device: Where the two tensors go.

    Returns:
        Tokens, and labels: the same ids (not shifted), ``NO_LABEL`` on prompt and padding.

    Example:
        >>> collate([Example([5, 6, 7], 1), Example([8, 9], 1)], pad_token=0)
        (tensor([[5, 6, 7], [8, 9, 0]]), tensor([[-100, 6, 7], [-100, 9, -100]]))
    """
    if not examples:
        raise ValueError("expected at least one example, got none")
    length = max(len(example.tokens) for example in examples)
    tokens_BT = torch.full((len(examples), length), pad_token)
    labels_BT = torch.full_like(tokens_BT, NO_LABEL)
    for row, (tokens, prompt_tokens, _) in enumerate(examples):
        tokens_BT[row, : len(tokens)] = torch.tensor(tokens)
        labels_BT[row, prompt_tokens : len(tokens)] = torch.tensor(tokens[prompt_tokens:])
    return tokens_BT.to(device), labels_BT.to(device)


def completion_loss(
    model: nn.Module, tokens_BT: Int[Tensor, "B T"], labels_BT: Int[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the labelled tokens, in nats per token, float32 or wider.

        loss = − 1/N Σ log p(label_bt | tokens_b,<t)     over the N pairs (b, t) with a label

    Equal to ``model(tokens_BT, labels=labels_BT).loss`` of transformers. Difference: the last
    layer, D·V multiply-adds for a position, works only where a label is asked for.

    Args:
        model: Any causal language model of transformers, adapted or not, on the tokens' device.
        tokens_BT: From ``collate``.
        labels_BT: Token ids or ``NO_LABEL``; not shifted.

    Raises:
        ValueError: If no position carries a label.
    """
    targets_BT = torch.full_like(labels_BT, NO_LABEL)
    targets_BT[:, :-1] = labels_BT[:, 1:]  # the output at t is about the token at t + 1
    index_N = (targets_BT.flatten() != NO_LABEL).nonzero().squeeze(1)
    if not len(index_N):
        raise ValueError("expected at least one labelled token after the first, got none")
    logits_NV = _logits_at(model, tokens_BT, index_N)
    if logits_NV.dtype in (torch.float16, torch.bfloat16):
        logits_NV = logits_NV.float()
    return nn.functional.cross_entropy(logits_NV, targets_BT.flatten()[index_N])


@torch.no_grad()
def held_out_loss(
    model: nn.Module, examples: Sequence[Example], *, batch_size: int = 8, pad_token: int = 0
) -> float:
    """Mean loss over all completion tokens of ``examples``, in nats per token.

    Every token has the same weight, whichever batch it came in. The model is in evaluation mode
    meanwhile; afterwards each of its modules has the mode it had.

    Args:
        model: As for ``completion_loss``.
        examples: At least one.
        batch_size: Sequences at a time; sequences of like length go together.
        pad_token: See ``collate``.

    Raises:
        ValueError: If there are no examples.
    """
    if not examples:
        raise ValueError("expected at least one held-out example, got none")
    device = next(model.parameters()).device
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    nats = 0.0
    with _evaluating(model):
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            loss = completion_loss(model, *collate(batch, pad_token=pad_token, device=device))
            nats += loss.item() * sum(map(predicted_tokens, batch))
    return nats / sum(map(predicted_tokens, examples))


def _begin(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Tokens with the begin-of-sequence token if the tokenizer puts one, without its last one."""
    plain = tokenizer(text, add_special_tokens=False).input_ids
    bos = tokenizer.bos_token_id
    adds_one = bos is not None and tokenizer(text).input_ids[:1] == [bos] != plain[:1]
    return [bos, *plain] if adds_one else list(plain)


def _continue(tokenizer: "PreTrainedTokenizerBase", prompt: str, completion: str) -> list[int]:
    """Tokens of a completion as what follows a text: alone, some tokenizers put a space first."""

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    for before in (prompt, "\n"):  # the second where a token would reach over the first's end
        whole, first = tokens(before + completion), tokens(before)
        if whole[: len(first)] == first:
            return whole[len(first) :]
    return tokens(completion)


def _example(
    tokenizer: "PreTrainedTokenizerBase",
    prompt_ids: list[int],
    completion_ids: list[int],
    max_tokens: int,
) -> Example:
    if tokenizer.eos_token_id is None:
        raise ValueError("expected a tokenizer with an end-of-sequence token, got none")
    if not completion_ids:
        raise ValueError("expected a completion of at least one token, got none")
    room = max_tokens - len(prompt_ids)
    if room < 1 or max_tokens < 2:
        raise ValueError(
            f"expected room for a completion in max_tokens={max_tokens}, "
            f"got a prompt of {len(prompt_ids)} tokens"
        )
    completion_ids = [*completion_ids, tokenizer.eos_token_id]
    kept = completion_ids[:room]
    return Example([*prompt_ids, *kept], len(prompt_ids), len(completion_ids) - len(kept))


def _logits_at(
    model: nn.Module, tokens_BT: Int[Tensor, "B T"], index_N: Int[Tensor, "N"]
) -> Float[Tensor, "N V"]:
    """The model's logits at some of the B·T positions, and nowhere else if its head allows it.

    The head is given fewer positions; everything after it (a scale, a soft cap) then works on
    what it returns. Asking the decoder and the head in turn would lose such a step.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states_BTD, *others = inputs
        return (states_BTD.flatten(0, 1)[index_N][None], *others)

    hook = head.register_forward_pre_hook(keep) if head is not None else None
    try:
        logits = model(input_ids=tokens_BT, use_cache=False).logits
    finally:
        if hook is not None:
            hook.remove()
    # No doubt is possible: a row's last position has no target, so (1, N) is never (B, T).
    on_all = logits.shape[:-1] == tokens_BT.shape
    return logits.flatten(0, 1)[index_N] if on_all else logits[0]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, then each module's own mode again: a frozen part may stay in its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
