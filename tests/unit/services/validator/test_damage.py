from __future__ import annotations

import time

import pytest

from services.validator.damage import damage


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": [1, true, null, "x", -1.5e3]}', []),
        ('{"a": 1,}', ["a comma before an end (line 1, column 8)"]),
        ("{'a': 1}", ["single quotes (line 1, column 2)"]),
        ('{\n  "a": 1 // why\n}', ["a comment (line 2, column 10)"]),
        ('{"a": True, "b": None}', ["a word of Python's (line 1, column 7)"]),
        ('{"a": 1', ["an end that is missing (line 1, column 8)"]),
        ('{"a": "b', ["a string without end (line 1, column 7)", "an end that is missing (line 1, column 9)"]),
        ('{"a": "b "c" d", e: 1}', ["a quote inside a string (line 1, column 11)"]),
        ('{"a": 1 "b": 2}', ["a comma that is missing (line 1, column 9)"]),
        ('{"a": "x" "b": 2}', ["a comma that is missing (line 1, column 11)"]),
        ('{a: 1, "b": c}', ["a name without quotes (line 1, column 2)", "text without quotes (line 1, column 13)"]),
        ('{"a": 007, "b": +1}', ["a number as JSON does not write it (line 1, column 7)"]),
        ('{"a": "x\ny"}', ["a line break or control character inside a string (line 1, column 9)"]),
        ('{"a": "x\\_y"}', ["an escape that JSON does not know (line 1, column 9)"]),
        ('{"a":\u00a01}', ["white space that JSON does not know (line 1, column 6)"]),
        (
            '{"a": (1, 2)}',
            ["'(' where JSON has none (line 1, column 7)", "')' where JSON has none (line 1, column 12)"],
        ),
        ("[1}", ["a bracket that closes nothing (line 1, column 3)", "an end that is missing (line 1, column 4)"]),
    ],
)
def test_each_kind_of_damage_is_told_once_with_its_first_place(text: str, told: list[str]) -> None:
    assert [str(found) for found in damage(text)] == told


@pytest.mark.parametrize(
    "text",
    [
        '"' * 500_001,
        '"' + '\\"' * 300_000,
        "'" * 500_001,
        "/*" * 300_000,
        "a " * 300_000,
        ", " * 300_000,
        "1" * 600_000,
    ],
)
def test_hostile_text_takes_time_linear_in_its_length(text: str) -> None:
    started = time.process_time()
    damage(text)
    assert time.process_time() - started < 20  # quadratic is minutes
