"""The reference text and the restaurant records."""

import sys
from collections import Counter

import pytest

from companion.data import reference_text, table_to_text
from companion.data.restaurants import _OPENINGS, _SENTENCES, _slots

SPLITS = {"train": 4200, "validation": 500, "test": 500}


def test_reference_text_is_long_english():
    text = reference_text()
    assert 300_000 < len(text) < 600_000
    words = Counter(text.lower().split())
    assert words.most_common(1)[0][0] == "the"
    assert 'The "yield" statement' in text
    assert text == reference_text()


def test_reference_text_does_not_say_things_twice():
    """A training and a test half must share almost nothing; the raw pages repeat 18 percent."""
    paragraphs = [p.strip() for p in reference_text().split("\n\n") if len(p.strip()) > 80]
    repeated = len(paragraphs) - len(set(paragraphs))
    assert repeated <= 0.01 * len(paragraphs)


def test_reference_text_keeps_every_long_paragraph():
    from pydoc_data.topics import topics

    text = reference_text()
    for page in topics.values():
        for paragraph in page.split("\n\n"):
            if len(paragraph.strip()) > 80:
                assert paragraph.strip() in text


def test_reference_text_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ImportError, match=r"without pydoc_data.*make lab"):
        reference_text()


@pytest.mark.parametrize(("split", "size"), SPLITS.items())
def test_every_value_stands_in_the_text(split, size):
    records = table_to_text(split)
    assert len(records) == size
    for table, text in records:
        assert {"name", "kind"} < table.keys()
        for value in table.values():
            assert value in text


def test_texts_hold_no_leftover_braces_and_end_as_sentences():
    for _, text in table_to_text("train"):
        assert not set("{}") & set(text)
        assert text.endswith(".")
        assert text[0].isupper()


def test_articles_fit():
    texts = " ".join(text for _, text in table_to_text("train"))
    assert " a inn" not in texts
    assert " a eatery" not in texts
    assert " an inn" in texts
    assert " a tavern" in texts
    assert " an tavern" not in texts


def test_splits_share_no_table_and_no_name():
    names, tables = {}, []
    for split in SPLITS:
        records = table_to_text(split)
        names[split] = {record.table["name"] for record in records}
        tables += [tuple(record.table.items()) for record in records]
    assert len(set(tables)) == len(tables)
    assert not names["train"] & names["validation"]
    assert not names["train"] & names["test"]
    assert not names["validation"] & names["test"]


def test_every_sentence_of_the_grammar_is_used():
    texts = " ".join(text for _, text in table_to_text("train"))
    for sentence in (*_OPENINGS, *_SENTENCES):
        longest = max(sentence.replace("}", "{").split("{")[::2], key=len)
        assert longest.strip() in texts, sentence


def test_each_slot_can_be_said_alone():
    """Otherwise a record could reach a state with no sentence left to choose."""
    single = [_slots(sentence) for sentence in _SENTENCES]
    for slot in ("cuisine", "price", "rating", "area", "guests", "near"):
        assert {slot} in single


def test_same_records_at_every_call():
    assert table_to_text("test") == table_to_text("test")


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="one of train, validation, test, got 'dev'"):
        table_to_text("dev")
