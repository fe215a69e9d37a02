"""Schemas, answers and cuts that nobody would think of."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "label", "", "é", "a/b~c"])
CHARS = st.characters(exclude_categories=["Cs"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.integers(-2, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(CHARS, max_size=8)
    | st.sampled_from(["a", "ab", "2020-01-01", "it's", 'say "hi"', "```", "</think>"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8
)
PATTERNS = st.sampled_from(
    ["^a", "a+$", "(a+)+$", "(?=a)b", r"(a)\1", "[", r"\d{3,9}", "(a{1,99}){1,99}", r"\p{L}+", "^(a|aa)+$", "(" * 50]
)
WORDS = ["null", "boolean", "integer", "number", "string", "array", "object"]
COUNTS = st.integers(0, 4) | st.sampled_from([-1, 1.5, 10**30, "1"])


def _keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several, named = st.lists(inner, min_size=1, max_size=3), st.dictionaries(NAMES, inner, max_size=3)
    counted = ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minimum", "maximum"]
    counted += ["exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minContains", "maxContains"]
    one = ["items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else"]
    one += ["additionalItems", "unevaluatedProperties", "unevaluatedItems", "$defs"]
    references = st.sampled_from(["#", "#/$defs/a", "#/properties/a", "#/nowhere", "#anchor", "http://x.example/s"])
    ids = st.sampled_from(["http://x.example/s", "#a", "b"])
    drafts = ["http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#", "urn:none"]
    told: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(counted, COUNTS),
        **dict.fromkeys(one, inner),
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems", "items"), several),
        **dict.fromkeys(("properties", "$defs", "definitions", "dependentSchemas"), named),
        "patternProperties": st.dictionaries(PATTERNS, inner, max_size=2),
        "type": st.sampled_from(WORDS) | st.lists(st.sampled_from(WORDS), max_size=3) | st.just("nothing"),
        "enum": st.lists(VALUES, max_size=4),
        "const": VALUES,
        "required": st.lists(NAMES, max_size=3),
        "uniqueItems": st.booleans(),
        "pattern": PATTERNS,
        "format": st.sampled_from(["date", "email", "regex", "uri", "ipv6", "unknown"]),
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2), max_size=2),
        "$ref": references,
        "$dynamicRef": references,
        "$id": ids,
        "$schema": st.sampled_from(drafts),
    }
    likely = ["type", "properties", "required", "items", "enum"]
    words = st.sampled_from(likely * 3 + list(told))
    return st.lists(words, max_size=4, unique=True).flatmap(
        lambda drawn: st.fixed_dictionaries({word: told[word] for word in drawn})
    )


def doubled(levels: int) -> dict[str, Any]:
    """A schema of 2^levels steps."""
    parts: dict[str, Any] = {"d0": {"type": "integer"}}
    for level in range(1, levels + 1):
        parts[f"d{level}"] = {"allOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2}
    return {"$ref": f"#/$defs/d{levels}", "$defs": parts}


def deep(levels: int) -> str:
    """A schema nested so deep."""
    return '{"items":' * levels + "{}" + "}" * levels


SCHEMAS = st.recursive(st.booleans() | st.just({}), _keywords, max_leaves=10).map(json.dumps)
HOSTILE_SCHEMAS = st.sampled_from(
    [
        json.dumps(doubled(40)),
        json.dumps({"allOf": [{"$ref": "#"}]}),
        json.dumps({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        json.dumps({"anyOf": [{"items": {"anyOf": [{"$ref": "#"}] * 9}}] * 9}),
        json.dumps({"pattern": "(?=(a+)+$)b"}),
        json.dumps({"enum": list(range(5000))}),
        deep(90),
        deep(150),
        deep(5_000),
        '{"a":',
        '{"type": "object", "type": "array"}',
        '{"const": "\\ud800"}',
        "[]",
        "",
    ]
)
HOSTILE_TEXTS = st.sampled_from(
    [
        "[" * 100_000,
        '{"a":' * 20_000,
        "[x" * 20_000,
        "```\n" * 20_000,
        '{"' + "\\" * 50_000,
        "<think>" * 10_000,
        "</think>\n" * 10_000,
        '"' * 50_001,
        '{"a": "' + 'b "c" ' * 2_000 + '"}',
        '[{"a": 1},' * 3_000,
        json.dumps(json.dumps(json.dumps(json.dumps({"a": 1})))),
        "9" * 5_000,
        '"\\ud800"',
        '{"a": "' + "a" * 60_000 + '"}',
        "{'a': " * 300,
    ]
)
WRAPPED = st.sampled_from(
    [
        "{}",
        "{}",
        "{}",
        "Sure: {}",
        "```json\n{}\n```",
        "```\n{}",
        "<think>{{}}</think>{}",
        "{} {}",
        "<think>{}",
        "\ufeff{}",
    ]
)
SCRAPS = st.sampled_from(
    [
        *"{}[]\",:'\\ \n-+.eE0",
        "//",
        "/*",
        "#",
        "True",
        "None",
        "NaN",
        "...",
        "\u201c",
        "\u00a0",
        "</think>",
        "```",
        '\\"',
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> str:
    """JSON as a model may write it: wrapped, and damaged here and there."""
    value = draw(VALUES)
    text = repr(value) if draw(st.integers(0, 9)) == 0 else json.dumps(value, ensure_ascii=draw(st.booleans()))
    text = draw(WRAPPED).replace("{}", text).replace("{{", "{").replace("}}", "}")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(SCRAPS | st.just("")) + text[at + draw(st.integers(0, 3)) :]
    return text


TEXTS = st.integers(0, 19).flatmap(
    lambda way: HOSTILE_TEXTS if way == 0 else st.text(CHARS, max_size=60) if way == 1 else answers()
)
PLAIN_SCHEMAS = st.sampled_from(
    [
        '{"properties": {"label": {"enum": ["a", "ab"]}}, "required": ["label"]}',
        '{"type": "array", "items": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}}',
        '{"type": "object", "additionalProperties": {"type": ["integer", "array"], "maxItems": 1}}',
        '{"anyOf": [{"type": "string", "maxLength": 3}, {"type": "array", "maxItems": 2}]}',
    ]
)
ALL_SCHEMAS = st.integers(0, 29).flatmap(
    lambda way: HOSTILE_SCHEMAS if way == 0 else PLAIN_SCHEMAS if way < 10 else SCHEMAS
)
CUTS = st.lists(st.integers(1, 20), min_size=1, max_size=8)
