from __future__ import annotations

import pytest

from services.validator.document import NotJson, deeper, pointer, read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("NaN", "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ("[1e999]", "too large"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"),
        ("1" * 5000, "too many digits"),
        (r'["\ud800"]', "surrogate"),
        (r'{"\uDC00": 1}', "surrogate"),
        ('{"a": 1} {"b": 2}', "more text after"),
        ('{"a": 1,}', "line 1, column 9"),
        ('"a\nb"', "control character"),
        ("", "Expecting value"),
    ],
)
def test_what_readers_could_understand_differently_is_not_json(text: str, says: str) -> None:
    with pytest.raises(NotJson, match=says):
        read(text, max_depth=64)


def test_a_surrogate_pair_is_one_character() -> None:
    assert read(r' "\ud83d\ude00" ', max_depth=1) == "\N{GRINNING FACE}"


@pytest.mark.parametrize("depth", [65, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_nested_too_deep_is_refused_without_a_crash(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(NotJson, match="deeper than 64 levels"):
        read(opening * depth + "1" + closing * depth, max_depth=64)


def test_json_as_deep_as_allowed_is_read() -> None:
    assert deeper(read("[" * 64 + "]" * 64, max_depth=64), 63)
    assert not deeper(read("[" * 64 + "]" * 64, max_depth=64), 64)
    assert not deeper(1, 0)
    assert read("[" + "[], " * 100 + "{}]", max_depth=2)


def test_a_pointer_escapes_what_rfc_6901_asks_for() -> None:
    assert pointer(["a/b", 0, "m~n", ""]) == "/a~1b/0/m~0n/"
    assert pointer([]) == ""
