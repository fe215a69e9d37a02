from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validator.document import NotJson, read
from services.validator.prefix import HEAD_CHARS, Broken, Kind, Prefix

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@dataclass
class Heard:
    """What is told, in the order it is told."""

    said: list[Any] = field(default_factory=list)
    value: Any = None

    def begin(self, kind: Kind) -> None:
        self.said.append(kind)

    def key(self, name: str) -> None:
        self.said.append((name,))

    def text(self, head: str, length: int) -> None:
        self.head, self.length = head, length

    def end(self, value: Any, at: int) -> None:
        self.said.append("end")
        self.value = value


def heard(text: str, cuts: random.Random | None = None) -> Heard:
    """Read `text`, in pieces where `cuts` says so."""
    told = Heard()
    prefix, at = Prefix(told, max_depth=64), 0
    while at < len(text):
        size = cuts.randint(1, 5) if cuts else len(text)
        prefix.feed(text[at : at + size])
        at += size
    prefix.end()
    return told


@given(VALUES, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([None, 1]))
def test_what_is_read_is_the_value_however_the_text_is_cut(
    value: Any, cuts: random.Random, ascii: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    try:
        wanted = read(text, max_depth=64)
    except NotJson:  # half of a surrogate pair, or a number of no double
        with pytest.raises(Broken):
            heard(text, cuts)
        return
    whole, pieces = heard(text), heard(text, cuts)
    assert json.dumps(whole.value) == json.dumps(pieces.value) == json.dumps(wanted)
    assert whole.said == pieces.said


def test_it_is_told_what_begins_and_what_ends() -> None:
    assert heard('{"a": [1, "x"], "b": null}').said == [
        *("object", ("a",), "array", "number", "end", "string", "end", "end"),
        *(("b",), "null", "end", "end"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{", "[1", '"a', "tru", "-", "1e", "1.", '{"a"', '{"a":', '{"a": 1,', '{"a": 1,}', "[1,]"),
        *("{a: 1}", "{'a': 1}", "01", "+1", ".5", "NaN", "nul1", '{"a": 1, "a": 2}', "[1] [2]", "1e999", "]"),
        *('"\\x"', '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', '"\\ud800x"', '"\n"', "[1 2]", '{"a" 1}', "1" * 5000),
        *("[" * 65 + "]" * 65, "1" * 100 + "-1", "0" * 100),
    ],
)
def test_what_no_json_is_or_begins_with_is_broken(text: str) -> None:
    with pytest.raises(Broken):
        heard(text)


def test_of_a_long_string_its_head_and_its_length_are_told() -> None:
    told = Heard()
    prefix = Prefix(told, max_depth=1)
    prefix.feed('"')
    for _ in range(300):
        prefix.feed("abcdefgh")
    assert told.length == 2400
    assert told.head == ("abcdefgh" * 300)[:HEAD_CHARS]


def test_the_end_of_a_value_is_told_in_characters_from_the_beginning() -> None:
    class Ends(Heard):
        def end(self, value: Any, at: int) -> None:
            self.said.append(at)

    for size in (1, 3, 50):
        text, told = ' {"ä": [12, "é\\n", true], "b": 1.5 }', Ends()
        prefix = Prefix(told, max_depth=8)
        for at in range(0, len(text), size):
            prefix.feed(text[at : at + size])
        assert [text[:at] for at in told.said if isinstance(at, int)] == [
            *(' {"ä": [12', ' {"ä": [12, "é\\n"', ' {"ä": [12, "é\\n", true', ' {"ä": [12, "é\\n", true]'),
            *(' {"ä": [12, "é\\n", true], "b": 1.5', text),
        ]
