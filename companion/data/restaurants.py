"""Restaurant records with a sentence or two about each: a table-to-text task made here.

The task has the shape of the E2E set (Novikova et al. 2017, arXiv:1706.09254): a few slots in,
an English description out. Records, values and sentences are our own, drawn from a small grammar.
"""

import random
from typing import Literal, NamedTuple

__all__ = ["TableText", "table_to_text"]

_ADJECTIVES = (  # noqa: SIM905
    "Amber Blue Brass Clever Copper Crooked Drowsy Early Friendly Gentle Golden Green "
    "Hidden Ivory Little Lucky Merry Patient Quiet Red Rusty Silver Velvet Wandering"
).split()
_NOUNS = (  # noqa: SIM905
    "Anchor Apron Badger Barrel Candle Carrot Compass Fiddle Goose Harvest Kettle Ladle "
    "Lantern Lemon Mill Mushroom Oven Pepper Plate Pumpkin Radish Spoon Swallow Thistle"
).split()

_VALUES = {
    "kind": ("bistro", "café", "canteen", "eatery", "inn", "noodle bar", "tavern", "tea house"),
    "cuisine": (
        *("Basque", "Ethiopian", "Greek", "Indian", "Korean"),
        *("Lebanese", "Mexican", "Sichuan", "Turkish", "Vietnamese"),
    ),
    "price": ("low", "moderate", "high"),
    "rating": tuple(f"{n} out of five stars" for n in ("two", "three", "four", "five")),
    "area": (
        *("the harbour district", "the hill quarter", "the market district"),
        *("the old town", "the river quarter", "the university quarter"),
    ),
    "guests": ("children welcome", "adults only", "dogs welcome"),
    "near": (
        *("Harrow Station", "Linden Bridge", "Miller's Pond", "Orchard Square"),
        *("Saint Anne's Church", "Tower Park"),
    ),
}

# Which slots a sentence uses is read off its braces.
_OPENINGS = (
    "{name} is {a_kind}.",
    "{name} is {a_kind} in {area}.",
    "{name} is {a_kind} that cooks {cuisine} food.",
    "{name}, {a_kind} near {near}, keeps its prices {price}.",
    "In {area} you will find {name}, {a_kind} with {cuisine} dishes.",
    "If you like {cuisine} cooking, try {name}, {a_kind} beside {near}.",
    "Reviewers give {rating} to {name}, {a_kind}.",
    "Close to {near} there is {a_kind} called {name}.",
)
_SENTENCES = (
    "The cooking is {cuisine}.",
    "Most plates on the menu are {cuisine}.",
    "Prices are {price}.",
    "What you pay there is {price} for the town.",
    "Guests rate it {rating}.",
    "Its last review said {rating}.",
    "You will find it in {area}.",
    "It belongs to {area}.",
    "The sign on the door reads: {guests}.",
    "The house rule: {guests}.",
    "It stands beside {near}.",
    "From {near} it is a short walk.",
    "The kitchen sends out {cuisine} dishes, and prices are {price}.",
    "With prices that are {price}, it earns {rating}.",
    "Look for it in {area}, close to {near}.",
    "It has {rating} and a simple rule: {guests}.",
    "People come to {area} for its {cuisine} food and give it {rating}.",
)

_SIZES = {"train": 4200, "validation": 500, "test": 500}


class TableText(NamedTuple):
    """One record: slot → value, and a text that says all of it."""

    table: dict[str, str]
    text: str


def table_to_text(split: Literal["train", "validation", "test"]) -> list[TableText]:
    """Restaurant records with their descriptions: 4200, 500 and 500 by split.

    Origin and licence: written for this course, under its licence; no person or place is real.
    A table holds ``name``, ``kind`` and one to six of ``cuisine``, ``price``, ``rating``,
    ``area``, ``guests``, ``near``. Every value stands in the text, letter by letter. No table
    occurs twice, and no name occurs in two splits, so the test asks for names never seen.
    The same records come back at every call, on every machine.

    Raises:
        ValueError: If ``split`` is none of the three.

    Example:
        >>> record = table_to_text("test")[6]
        >>> record.table
        {'name': 'The Copper Harvest', 'kind': 'bistro', 'cuisine': 'Lebanese'}
        >>> record.text
        'The Copper Harvest is a bistro that cooks Lebanese food.'
    """
    if split not in _SIZES:
        raise ValueError(f"expected split to be one of {', '.join(_SIZES)}, got {split!r}")
    rng = random.Random(f"companion.data.restaurants {split}")
    names, records = _names(split), {}
    while len(records) < _SIZES[split]:
        table = _draw_table(rng, names)
        records.setdefault(tuple(table.items()), TableText(table, _describe(rng, table)))
    return list(records.values())


def _names(split: str) -> list[str]:
    """Eight of ten names are for training, one for validation, one for the test."""
    names = [f"The {adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
    first, last = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}[split]
    return [name for i, name in enumerate(names) if first <= (7 * i + i // 24) % 10 < last]


def _draw_table(rng: random.Random, names: list[str]) -> dict[str, str]:
    optional = [slot for slot in _VALUES if slot != "kind" and rng.random() < 0.5]
    slots = optional or [_pick(rng, ["cuisine", "price", "rating", "area", "guests", "near"])]
    table = {"name": _pick(rng, names), "kind": _pick(rng, _VALUES["kind"])}
    return table | {slot: _pick(rng, _VALUES[slot]) for slot in slots}


def _describe(rng: random.Random, table: dict[str, str]) -> str:
    """An opening, then sentences drawn at random until every slot is said once."""
    article = "an" if table["kind"][0] in "aeiou" else "a"
    words = table | {"a_kind": f"{article} {table['kind']}"}
    left = words.keys() - {"kind"}
    sentences = []
    while left:
        source = _SENTENCES if sentences else _OPENINGS
        sentence = _pick(rng, [s for s in source if _slots(s) <= left])
        left = left - _slots(sentence)
        sentences.append(sentence.format(**words))
    return " ".join(sentences)


def _slots(sentence: str) -> set[str]:
    return {part.split("}")[0] for part in sentence.split("{")[1:]}


def _pick(rng: random.Random, items):
    # Python promises the same random() from version to version; it does not promise choice().
    return items[int(rng.random() * len(items))]
