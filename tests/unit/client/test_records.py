from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway import v1
from spillway.client.records import Records
from spillway.client.stream import AnswerStream
from spillway.errors import RequestInvalid

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(VALUES, max_size=5),
    st.dictionaries(st.text().filter(lambda name: name != "rows"), VALUES, max_size=3),
    st.dictionaries(st.text().map(lambda name: f"{name}!"), VALUES, max_size=2),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_records_are_the_items_of_the_array_however_the_text_is_cut(
    rows: list[Any], before: dict[str, Any], after: dict[str, Any], cuts: random.Random, root: bool
) -> None:
    value = rows if root else {**before, "rows": rows, **after}
    text = json.dumps(value, ensure_ascii=cuts.random() < 0.5, indent=cuts.choice([None, 2]))
    reader, at, found = Records(() if root else ("rows",)), 0, list[Any]()
    while at < len(text):
        size = cuts.randint(1, 9)
        assert not reader.whole
        found += reader.feed(text[at : at + size])
        at += size
    assert reader.whole
    assert found == rows


def test_a_record_is_read_with_its_last_character_but_for_numbers() -> None:
    reader = Records(())
    assert list(reader.feed('[{"a": 1}')) == [{"a": 1}]
    assert list(reader.feed(', "x"')) == ["x"]
    assert list(reader.feed(", 1")) == []
    assert list(reader.feed("2, true")) == [12, True]


def test_an_answer_that_is_something_else_has_no_records() -> None:
    assert list(Records(("rows",)).feed('[1, {"rows": [1]}]')) == []
    assert list(Records(("rows",)).feed('{"rows": {"rows": [1]}, "x": [2]}')) == []


def test_what_is_nested_too_deep_is_never_whole() -> None:
    reader = Records(())
    assert list(reader.feed("[" * 100_000)) == []
    assert not reader.whole


@pytest.mark.parametrize("schema", ["{", "[" * 100_000, "", '{"type": "string"}'])
async def test_a_schema_without_records_is_the_callers_error(schema: str) -> None:
    async def nothing() -> AsyncIterator[v1.StreamGenerateResponse]:
        for response in list[v1.StreamGenerateResponse]():
            yield response

    with pytest.raises(RequestInvalid) as wrong:
        [record async for record in AnswerStream(nothing(), schema).records()]
    assert wrong.value.fields[0].field == "json_schema"
