"""JSON-Schema-Test-Suite, the tier every validator must pass."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.validator.schema import Schema
from spillway.errors import SchemaInvalid

pytestmark = pytest.mark.conformance

DRAFT7 = "http://json-schema.org/draft-07/schema#"
NEEDS_REMOTES = {"jsts_draft2020-12": 49, "jsts_draft7": 23}
"""Rows whose schema refers to a document on the suite's own web server."""


def rows(name: str) -> list[dict[str, Any]]:
    path = Path(os.environ.get("SPILLWAY_DATA", ""), "schema", f"{name}.jsonl")
    if not os.environ.get("SPILLWAY_DATA") or not path.exists():
        pytest.skip("SPILLWAY_DATA does not name the measuring data")
    with path.open() as lines:
        return [row for row in map(json.loads, lines) if row["tier"] == "mandatory"]


@pytest.mark.parametrize("name", NEEDS_REMOTES)
def test_the_mandatory_tier_holds_and_remote_references_are_refused(name: str) -> None:
    wrong, refused = [], 0
    for row in rows(name):
        schema = row["schema"]
        if isinstance(schema, dict) and name == "jsts_draft7":
            schema = {"$schema": DRAFT7, **schema}
        expected = row["valid"]
        if row["file"] == "format.json" and "only an annotation" in row["test"]:
            expected = False  # formats are asserted here, which the specification leaves open
        try:
            accepted = Schema(json.dumps(schema)).accepts(row["data"])
        except SchemaInvalid as error:
            assert "never fetched" in error.message or "no draft that is known" in error.message, error.message
            assert "localhost:1234" in json.dumps(schema), row["group"]
            refused += 1
            continue
        if accepted != expected:
            wrong.append((row["file"], row["group"], row["test"]))
    assert wrong == []
    assert refused == NEEDS_REMOTES[name]
