"""Records against what was written by hand; losses against those that transformers computes."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.testing import assert_close
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutput

from companion.language.jsonl import read_jsonl
from companion.language.records import (
    NO_LABEL,
    Example,
    collate,
    completion_loss,
    encode,
    encode_record,
    held_out_loss,
    predicted_tokens,
)
from tests.language.tiny_language_model import CHAT, END, llama, tokenizer, write_jsonl

PLAIN = tokenizer()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: on a busy machine two threads wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Files ----------------------------------------------------------------------------------------


def test_records_come_back_as_written(tmp_path):
    records = [
        {"prompt": "", "completion": "no\nyes"},
        {"text": "a line\u2028of text\x85, ünïcödé", "source": 3},
        {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "b"}]},
    ]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    file = write_jsonl(tmp_path / "a.jsonl", ["", lines[0], "  ", *lines[1:]])
    assert read_jsonl(file) == records
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())  # as an editor on Windows does
    assert read_jsonl(file) == records


BAD = {
    "{": r"expected a JSON object, got text that is not JSON \(.*, column 2\)",
    "[1]": "expected a JSON object, got a list",
    "[" * 100_000: "expected a JSON object, got one nested too deeply",
    "3": "expected a JSON object, got a number",
    "null": "expected a JSON object, got null",
    "{}": r'expected the keys of one of \{"prompt", "completion"\}, .*, got \[\]',
    '{"prompt": "a"}': r"expected the keys of one of .*, got \['prompt'\]",
    '{"text": "a", "completion": "b"}': r"expected the keys of one of .* got \['completion', 'te",
    '{"text": 3}': 'expected a string in "text", got a number',
    '{"text": true}': 'expected a string in "text", got true',
    '{"text": " "}': 'expected some text in "text", got \' \'',
    '{"prompt": "a", "completion": ""}': 'expected some text in "completion", got \'\'',
    '{"prompt": null, "completion": "a"}': 'expected a string in "prompt", got null',
    r'{"text": "\ud800"}': 'expected whole characters in "text", got a lone surrogate',
    '{"messages": "hi"}': 'expected a list of messages in "messages", got a string',
    '{"messages": []}': "expected a list of messages .*, got an empty list",
    '{"messages": [3]}': 'expected "role" and "content" in message 1, got a number',
    '{"messages": [{"role": "user"}]}': r'"content" in message 1, got \[\'role\'\]',
    '{"messages": [{"role": "assistant", "content": "a"}]}': r"answer, got \['assistant'\]",
    json.dumps({"messages": [{"role": r, "content": "a"} for r in ("assistant", "user")]}): (
        r"expected messages that end with the assistant's answer, got \['assistant', 'user'\]"
    ),
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}': (
        'expected some text in "content", got \'\''
    ),
    json.dumps({"messages": [{"role": "user", "content": [1]}] * 2}): (
        'expected a string in "content", got a list'
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "match"), BAD.items())
def test_bad_line_is_named(tmp_path, line, match):
    file = write_jsonl(tmp_path / "a.jsonl", ['{"text": "a"}', "", line, '{"text": "b"}'])
    with pytest.raises(ValueError, match=f"a.jsonl, line 3: .*{match}[^(]*$|{match}$"):
        read_jsonl(file)


def test_several_bad_lines_are_counted(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", ['{"text": "a"}', "7", "8", "9"])
    with pytest.raises(ValueError, match=r"line 2: expected .* \(and 2 more bad lines\)$"):
        read_jsonl(file)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_bytes_that_are_not_utf_8_are_named(tmp_path, start):
    file = tmp_path / "a.jsonl"
    file.write_bytes(start + b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(
        ValueError, match="line 2: expected UTF-8 text, got the byte 0xe9 at byte 14"
    ):
        read_jsonl(file)


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_file_without_records(tmp_path, content):
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected at least one record in .*a.jsonl, got none"):
        read_jsonl(file)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        read_jsonl(tmp_path / "none.jsonl")


# Tokens ---------------------------------------------------------------------------------------


def ids(*tokens: str) -> list[int]:
    return PLAIN.convert_tokens_to_ids(list(tokens))


def test_tokens_by_hand():
    example = encode(PLAIN, "the", " cat sat", max_tokens=99)
    assert example == (ids("the", "Ġcat", "Ġsat", END), 1, 0)


def test_no_token_reaches_over_the_boundary():
    """Alone, "the c" and "at" are three tokens; together they would be two, the last shared."""
    assert PLAIN("the cat").input_ids == ids("the", "Ġcat")
    prompt = PLAIN("the c").input_ids
    assert prompt[-1] not in ids("Ġcat")
    example = encode(PLAIN, "the c", "at", max_tokens=99)
    assert example == (prompt + PLAIN("at").input_ids + ids(END), len(prompt), 0)


@given(prompt=st.text(), completion=st.text(min_size=1))
def test_prompt_has_its_own_tokens_and_the_text_is_whole(prompt, completion):
    tokens, prompt_tokens, cut = encode(PLAIN, prompt, completion, max_tokens=9999)
    assert tokens[:prompt_tokens] == PLAIN(prompt).input_ids
    assert PLAIN.decode(tokens[prompt_tokens:]) == completion + END
    assert cut == 0


@pytest.mark.parametrize("prompt", ["", "the", BEGIN_TEXT := "<|begin|>the"])
def test_begin_token_is_put_where_the_tokenizer_puts_it(prompt):
    begins = tokenizer(begins=True)
    example = encode(begins, prompt, " cat", max_tokens=99)
    expected = [1] + ids("the") * (prompt != "") + ids("Ġcat", END)
    if prompt == BEGIN_TEXT:  # the text has one already; the tokenizer's own is not put before it
        assert begins(prompt).input_ids == [1, 1, *ids("the")]
    assert example == (expected, len(expected) - 2, 0)


def test_end_token_does_not_stand_between_prompt_and_completion():
    example = encode(tokenizer(ends=True), "the", " cat", max_tokens=99)
    assert example == (ids("the", "Ġcat", END), 1, 0)


@pytest.mark.parametrize(
    ("prompt", "completion"), [("a dog", " ran"), ("a dog ", "ran"), ("a dog\n", "ran")]
)
def test_no_second_space_where_the_tokenizer_marks_the_beginning_of_words(prompt, completion):
    """As Llama 2's does: "ran" alone would become " ran"."""
    inner = Tokenizer(models.BPE(unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(special_tokens=["?", END], show_progress=False)
    inner.train_from_iterator(["a dog ran\n", "a cat ran\n"], trainer)
    words = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, unk_token="?")
    tokens, prompt_tokens, _ = encode(words, prompt, completion, max_tokens=99)
    assert words.decode(tokens) == f"{prompt}{completion}{END}"
    assert tokens[:prompt_tokens] == words(prompt).input_ids


@pytest.mark.parametrize(
    ("max_tokens", "kept", "cut"), [(4, 4, 0), (3, 3, 1), (2, 2, 2)]
)  # fmt: skip
def test_long_completion_loses_its_end(max_tokens, kept, cut):
    example = encode(PLAIN, "the", " cat sat", max_tokens=max_tokens)
    assert example == (ids("the", "Ġcat", "Ġsat", END)[:kept], 1, cut)
    assert predicted_tokens(example) == kept - 1


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_prompt_that_leaves_no_room(max_tokens):
    match = rf"room for a completion in max_tokens={max_tokens}, got a prompt of 2 tokens"
    with pytest.raises(ValueError, match=match):
        encode(PLAIN, "the cat", " sat", max_tokens=max_tokens)


def test_one_token_is_no_sequence():
    with pytest.raises(ValueError, match="max_tokens=1, got a prompt of 0 tokens"):
        encode(PLAIN, "", "the", max_tokens=1)


def test_empty_completion():
    with pytest.raises(ValueError, match="expected a completion of at least one token, got none"):
        encode(PLAIN, "the", "", max_tokens=9)


def test_tokenizer_without_an_end():
    endless = tokenizer()
    endless.eos_token = None
    with pytest.raises(ValueError, match="expected a tokenizer with an end-of-sequence token"):
        encode(endless, "the", " cat", max_tokens=9)


def test_record_of_each_form():
    pair, text = {"prompt": "the", "completion": " cat"}, {"text": "the cat"}
    tokens = ids("the", "Ġcat", END)
    assert encode_record(PLAIN, pair, max_tokens=9) == (tokens, 1, 0)
    assert encode_record(PLAIN, text, max_tokens=9) == (tokens, 0, 0)
    assert encode_record(PLAIN, text, max_tokens=2) == (tokens[:2], 0, 1)


TURNS = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat"},
    {"role": "user", "content": "a dog"},
    {"role": "assistant", "content": "ran"},
]


@pytest.mark.parametrize("begins", [False, True])
def test_chat_asks_for_the_last_answer_and_its_end(begins):
    chat = tokenizer(chat=CHAT, begins=begins)
    tokens, prompt_tokens, _ = encode_record(chat, {"messages": TURNS}, max_tokens=99)
    asked = f"<user> the cat{END}\n<assistant> sat{END}\n<user> a dog{END}\n<assistant> "
    assert chat.decode(tokens[:prompt_tokens]) == asked
    assert chat.decode(tokens[prompt_tokens:]) == f"ran{END}"  # not the line feed after it
    assert tokens[:prompt_tokens] == chat(asked, add_special_tokens=False).input_ids


def test_template_that_ends_no_message_gets_an_end():
    plain = tokenizer(chat=CHAT.replace(END, ""))
    tokens, prompt_tokens, _ = encode_record(plain, {"messages": TURNS}, max_tokens=99)
    assert plain.decode(tokens[prompt_tokens:]) == f"ran\n{END}"


def test_chat_without_a_template():
    with pytest.raises(ValueError, match="expected a tokenizer with a chat template"):
        encode_record(PLAIN, {"messages": TURNS}, max_tokens=99)


def test_template_that_rewrites_the_past():
    fickle = tokenizer(chat="{{ messages | length }}" + CHAT)
    with pytest.raises(ValueError, match=r"with and without the answer, got '4<user>.*of '3<user>"):
        encode_record(fickle, {"messages": TURNS}, max_tokens=99)


# Batches and losses ---------------------------------------------------------------------------

EXAMPLES = [
    Example([5, 6, 7, 8, 9, 10, 11], 2),
    Example([12, 13, 14], 2),
    Example([15, 16, 17, 18, 19], 0),
]


def test_batch_by_hand(device):
    tokens, labels = collate(EXAMPLES[:2], pad_token=3, device=device)
    no = NO_LABEL
    assert tokens.tolist() == [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 3, 3, 3, 3]]
    assert labels.tolist() == [[no, no, 7, 8, 9, 10, 11], [no, no, 14, no, no, no, no]]
    assert (tokens.device.type, tokens.dtype, labels.dtype) == (device, torch.int64, torch.int64)


def test_empty_batch():
    with pytest.raises(ValueError, match="expected at least one example, got none"):
        collate([], pad_token=0)


def gpt2() -> GPT2LMHeadModel:
    sizes = {"vocab_size": 331, "n_positions": 64, "n_embd": 12, "n_layer": 2, "n_head": 3}
    return GPT2LMHeadModel(GPT2Config(**sizes)).eval()  # ties its head to its embedding


def gemma() -> Gemma2ForCausalLM:
    config = Gemma2Config(
        vocab_size=331, hidden_size=12, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, head_dim=4, final_logit_softcapping=0.02,
        pad_token_id=0,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


def cohere() -> CohereForCausalLM:
    config = CohereConfig(
        vocab_size=331, hidden_size=12, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, logit_scale=50.0,
    )  # fmt: skip
    return CohereForCausalLM(config).eval()


def mamba() -> MambaForCausalLM:
    config = MambaConfig(vocab_size=331, hidden_size=12, num_hidden_layers=2, state_size=5)
    return MambaForCausalLM(config).eval()


class HeadWithoutAModule(nn.Module):
    """A model that multiplies by its head's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = llama()

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.lm_head

    def forward(self, input_ids, labels=None, **options):
        if labels is not None:
            return self.inner(input_ids, labels=labels)
        states = self.inner.model(input_ids, **options).last_hidden_state
        return CausalLMOutput(logits=states @ self.inner.lm_head.weight.T)


class NoHeadToAskFor(HeadWithoutAModule):
    get_output_embeddings = None

    def __getattribute__(self, name):
        if name == "get_output_embeddings":
            raise AttributeError(name)
        return super().__getattribute__(name)


def adapted_by_peft() -> nn.Module:
    config = LoraConfig(target_modules=["q_proj", "lm_head"], r=2, init_lora_weights=False)
    return get_peft_model(llama(), config).eval()


MODELS = [llama, gpt2, gemma, cohere, mamba, HeadWithoutAModule, NoHeadToAskFor, adapted_by_peft]


# PEFT asks transformers for a name that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("make", MODELS)
def test_loss_and_gradients_are_those_of_transformers(make, device):
    torch.manual_seed(1)
    model = make().to(device, torch.float64)
    batch = collate(EXAMPLES, pad_token=0, device=device)
    expected = model(batch[0], labels=batch[1]).loss
    parameters = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, parameters)
    loss = completion_loss(model, *batch)
    assert_close(loss.double(), expected.double(), atol=1e-6, rtol=1e-6)  # theirs is a float32
    for got, want in zip(torch.autograd.grad(loss, parameters), wanted, strict=True):
        assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("example", EXAMPLES)
def test_neighbours_and_padding_change_nothing(example):
    model = llama().double()
    alone = collate([example], pad_token=0)
    expected = model(alone[0], labels=alone[1]).loss.double()
    for pad_token in (0, 330):
        tokens, labels = collate([*EXAMPLES, example], pad_token=pad_token)
        labels[:-1] = NO_LABEL
        assert_close(completion_loss(model, tokens, labels), expected, atol=1e-6, rtol=0)


def test_head_works_only_where_a_label_is():
    model, seen = llama(), []
    model.lm_head.register_forward_hook(lambda _, inputs, logits: seen.append(logits.shape))
    completion_loss(model, *collate(EXAMPLES, pad_token=0))
    assert sum(shape[:-1].numel() for shape in seen) == 5 + 1 + 4
    model(torch.zeros(2, 3, dtype=torch.long))
    assert seen[-1] == (2, 3, 331)  # the model is as it was


def test_one_label_for_one_token():
    """A batch of one position could be taken for the full output: both have one row."""
    model = llama().double()
    tokens, labels = collate([Example([5, 6], 1)], pad_token=0)
    expected = -model(tokens).logits[0, 0].log_softmax(0)[6]
    assert_close(completion_loss(model, tokens, labels), expected)


def test_model_is_left_as_it_was_after_an_error():
    model = llama()
    with pytest.raises(IndexError):
        completion_loss(model, *collate([Example([5, 999], 1)], pad_token=0))
    assert not model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    model = llama().to(dtype)
    batch = collate(EXAMPLES, pad_token=0)
    loss = completion_loss(model, *batch)
    assert loss.dtype == torch.float32
    assert_close(loss, model(batch[0], labels=batch[1]).loss, atol=1e-6, rtol=1e-6)


def test_batch_without_a_label():
    with pytest.raises(ValueError, match="expected at least one labelled token after the first"):
        completion_loss(llama(), *collate([Example([5, 6], 2), Example([7], 0)], pad_token=0))


@pytest.mark.slow
def test_compiled_model_gives_the_same_loss():
    model = llama(num_hidden_layers=1)
    compiled = torch.compile(model, backend="eager")
    for examples in (EXAMPLES, EXAMPLES[1:], [Example([5, 6, 7, 8, 9, 10, 11], 4), *EXAMPLES[1:]]):
        tokens, labels = collate(examples, pad_token=0)
        expected = model(tokens, labels=labels).loss
        assert_close(completion_loss(compiled, tokens, labels), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_held_out_loss_weighs_tokens_alike(batch_size):
    model = llama().double()
    nats = torch.zeros(())
    for example, tokens in zip(EXAMPLES, (5, 1, 4), strict=True):
        alone = collate([example], pad_token=0)
        nats = nats + tokens * model(alone[0], labels=alone[1]).loss
    loss = held_out_loss(model, EXAMPLES, batch_size=batch_size)
    assert loss == pytest.approx(nats.item() / 10, abs=1e-6)


def test_held_out_loss_is_measured_without_dropout_and_gives_the_mode_back():
    model = gpt2()  # has dropout of 0.1
    expected = held_out_loss(model, EXAMPLES)
    model.train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    assert held_out_loss(model, EXAMPLES) == expected
    assert [module.training for module in model.modules()] == modes
    assert set(modes) == {True, False}


def test_held_out_loss_gives_the_mode_back_after_an_error():
    model = llama().train()
    with pytest.raises(IndexError):
        held_out_loss(model, [Example([5, 999], 1)])
    assert model.training


def test_nothing_held_out():
    with pytest.raises(ValueError, match="expected at least one held-out example, got none"):
        held_out_loss(llama(), [])
