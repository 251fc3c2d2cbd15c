"""A language model of transformers with our attention in place of its own.

Only the call of the attention function changes: projections, rotary embedding and the cache of
keys and values stay transformers'. A cached step has T < S, and the causal mask is aligned so that
the last query meets the last key, which is what T new tokens after S − T old ones need.
Chapter: course/09_flash.ipynb.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from companion.flash.attention import flash_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["first_layers", "use_flash_attention"]

# Under a name with "flash" in it transformers would expect the flash-attn library's arguments.
_NAME = "companion_tiles"


@contextmanager
def use_flash_attention(model: "PreTrainedModel") -> Iterator["PreTrainedModel"]:
    """Run a causal language model with ``flash_attention``; afterwards it is as it was.

    Generation with a growing cache, prefill in chunks and training work. Not done, and refused
    when it is asked for: padding, several texts packed into one row, masks of the caller's,
    dropout in the attention, attention weights as an output, caches of a fixed size.

    Args:
        model: A model of transformers whose attention is causal over all keys, such as Llama and
            SmolLM2; it is changed in place, on any device.

    Yields:
        The same model.

    Raises:
        TypeError: ``model`` is not a model of transformers, or cannot change its attention.
        ValueError: The configuration asks for attention weights; or, in a call, for what is not
            done.

    Example:
        >>> from companion.data import smollm2
        >>> model, tokenizer = smollm2()  # doctest: +SKIP
        >>> with use_flash_attention(model):  # doctest: +SKIP
        ...     model.generate(**tokenizer("Softmax is", return_tensors="pt"), max_new_tokens=8)
    """
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a transformers PreTrainedModel, got {type(model).__name__}")
    if not model._can_set_attn_implementation():
        raise TypeError(f"{type(model).__name__} does not let its attention be replaced")
    if model.config.output_attentions:
        raise ValueError("flash_attention makes no weights; set config.output_attentions = False")
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _no_mask)
    before = model.config._attn_implementation
    check = model.base_model.register_forward_pre_hook(_one_text_a_row, with_kwargs=True)
    model.set_attn_implementation(_NAME)
    try:
        yield model
    finally:
        model.set_attn_implementation(before)
        check.remove()


@contextmanager
def first_layers(model: "PreTrainedModel", count: int) -> Iterator["PreTrainedModel"]:
    """Run a Llama, such as SmolLM2, with its first layers only; afterwards it is as it was.

    One layer after another frees its scores, so that the peak memory of a forward pass is that of
    two layers, however many there are: a long prompt can be measured without the whole model.

    Args:
        model: A Llama; its configuration is changed in place.
        count: Layers kept, at least 1 and at most those of the model.

    Yields:
        The same model.

    Raises:
        ValueError: The model does not have that many layers.

    Example:
        >>> from companion.data import smollm2
        >>> model, _ = smollm2()  # doctest: +SKIP
        >>> with first_layers(model, 4):  # doctest: +SKIP
        ...     peak = peak_bytes(lambda: model(ids, use_cache=False, logits_to_keep=1))
    """
    layers = len(model.model.layers)
    if not 1 <= count <= layers:
        raise ValueError(f"count must be in [1, {layers}], got {count}")
    before = model.config.num_hidden_layers
    model.config.num_hidden_layers = count
    try:
        yield model
    finally:
        model.config.num_hidden_layers = before


def _one_text_a_row(model: nn.Module, args: tuple, kwargs: dict[str, object]) -> None:
    """Refuse positions that start anew within a row: transformers marks packed texts in that way.

    It makes a mask of them only where there is neither a cache nor a mask, so this looks first.
    """
    given = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    positions = given.get("position_ids")
    if isinstance(positions, Tensor) and positions.ndim <= 2 and (positions.diff() != 1).any():
        raise ValueError(
            "position_ids must count up by one along each row, got several texts packed into one "
            "(or a gap): pass one text a row, or call flash_attention_varlen"
        )


def _attention(
    module: nn.Module,
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **settings: object,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """What transformers calls in each layer; the second value would be the weights."""
    if attention_mask is not None:
        raise ValueError("flash_attention takes no mask of the caller's: causal attention only")
    if dropout:
        raise ValueError(f"flash_attention has no dropout, got attention_dropout={dropout}")
    # What would change the result if it were ignored; other settings are the cache's and such.
    for name in ("output_attentions", "sliding_window", "softcap", "position_bias", "s_aux"):
        value = settings.get(name)
        if isinstance(value, Tensor) or value:
            raise ValueError(f"flash_attention in a model does not do {name}={value!r}")
    is_causal = settings.get("is_causal")
    if not (getattr(module, "is_causal", False) if is_causal is None else is_causal):
        raise ValueError(f"{type(module).__name__} is not causal; only causal attention is done")
    return flash_attention(q, k, v, causal=True, scale=scaling).transpose(1, 2), None


def _no_mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: object = None,
    attention_mask: Tensor | None = None,
    **settings: object,
) -> None:
    """The mask that transformers would build: none, after a check that a causal one is meant."""
    from transformers.masking_utils import causal_mask_function

    if mask_function is not causal_mask_function:
        raise ValueError(
            "flash_attention in a model does causal attention only; this call asks for another "
            "mask (a sliding window, or both directions)"
        )
    if attention_mask is not None and not attention_mask.all():
        padded = int((~attention_mask.bool()).any(dim=-1).sum())
        raise ValueError(
            f"attention_mask must be all ones, got padding in {padded} of "
            f"{attention_mask.shape[0]} texts: pass texts of one length, or one at a time"
        )
    if kv_offset or int(q_offset) + q_length != kv_length:
        raise ValueError(
            f"the cache must hold the tokens so far and no more, got {q_offset} + {q_length} "
            f"tokens in a cache of {kv_length} from {kv_offset} on: use a DynamicCache"
        )
