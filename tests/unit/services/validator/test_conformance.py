"""JSON-Schema-Test-Suite, judged as answers are: its remote schemas come in `schemas`, and nothing is fetched."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.validator.judgement import Judge
from services.validator.schema import Schema
from services.validator.settings import JudgementSettings
from services.validator.verdict import Answer, Constraint, Decision
from spillway.bundle import Unbundled, bundled
from spillway.errors import SchemaInvalid

pytestmark = pytest.mark.conformance

DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere"), "schema")
# The suite is others' and never copied in here: it runs where SPILLWAY_DATA names it, as it does in CI.
RECORDED = pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with schemas")
DRAFTS = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
}
ROWS = {
    ("draft2020-12", "mandatory"): 1299,
    ("draft2020-12", "optional/format"): 768,
    ("draft2020-12", "optional"): 158,
    ("draft7", "mandatory"): 927,
    ("draft7", "optional/format"): 676,
    ("draft7", "optional"): 118,
}
ANNOTATIONS = {"draft2020-12": 19, "draft7": 0}
"""Mandatory rows that hold where formats are not asserted, which the specification leaves open; here they are."""
JUDGE = Judge(JudgementSettings(cached_schemas=4000))


def rows(draft: str) -> Iterator[dict[str, Any]]:
    with (DATA / f"jsts_{draft}.jsonl").open() as lines:
        for row in map(json.loads, lines):
            yield {**row, "schema": _of(draft, row["schema"])}


def _of(draft: str, schema: Any) -> Any:
    """`schema` as one of `draft`, unless it says otherwise: the suite leaves that to where it is kept."""
    return {"$schema": DRAFTS[draft], **schema} if isinstance(schema, dict) else schema


def remotes(draft: str) -> tuple[tuple[str, str], ...]:
    """What the suite's web server has for `draft`: its own folder, what is in none, and what names its draft itself."""
    found = json.loads((DATA / "jsts_remotes.json").read_text())
    kept = {
        uri: _of(draft, schema)
        for uri, schema in found.items()
        if "/v1/" not in uri and (f"/{draft}/" in uri or "/draft" not in uri or "$schema" in schema)
    }
    return tuple(sorted((uri, json.dumps(schema)) for uri, schema in kept.items()))


@RECORDED
@pytest.mark.parametrize(("draft", "tier"), ROWS)
def test_every_row_of_the_suite_is_judged_as_it_says(draft: str, tier: str) -> None:
    wrong, annotations, total = [], 0, 0
    registered = remotes(draft)
    for row in rows(draft):
        if row["tier"] != tier:
            continue
        total += 1
        expected, constraint = row["valid"], Constraint("json_schema", json.dumps(row["schema"]), schemas=registered)
        if row["file"] == "format.json" and "only an annotation" in row["test"]:
            expected, annotations = False, annotations + 1
        (verdict,) = JUDGE.judge(constraint, [Answer(json.dumps(row["data"]))])
        if (verdict.decision is Decision.ACCEPT) != expected:
            wrong.append((row["file"], row["group"], row["test"]))
    assert wrong == []
    assert total == ROWS[draft, tier]
    assert tier != "mandatory" or annotations == ANNOTATIONS[draft]


@RECORDED
@pytest.mark.parametrize("draft", DRAFTS)
def test_a_remote_that_is_not_registered_is_refused(draft: str) -> None:
    refused = 0
    for row in rows(draft):
        try:
            Schema(json.dumps(row["schema"]))
        except SchemaInvalid as error:
            refused += 1
            assert "never fetched" in error.message or "no draft that is known" in error.message, error.message
            assert "localhost:1234" in json.dumps(row["schema"]), row["group"]
    assert refused == {"draft2020-12": 54, "draft7": 25}[draft]


@RECORDED
@pytest.mark.parametrize("draft", DRAFTS)
def test_a_schema_told_as_one_document_means_the_same(draft: str) -> None:
    told = 0
    registered = dict(remotes(draft))
    for row in rows(draft):
        text = json.dumps(row["schema"])
        try:
            one = bundled(text, registered)
        except Unbundled:
            continue
        if one != text:
            told += 1
            assert Schema(one).accepts(row["data"]) == row["valid"], (row["group"], row["test"], one)
    assert told == {"draft2020-12": 21, "draft7": 17}[draft]


@RECORDED
def test_real_schemas_judge_their_instances_as_labelled() -> None:
    agreed, total = 0, 0
    for row in map(json.loads, (DATA / "real_schemas.jsonl").read_text().splitlines()):
        constraint = Constraint("json_schema", json.dumps(row["schema"]))
        verdicts = JUDGE.judge(constraint, [Answer(json.dumps(test["data"])) for test in row["tests"]])
        total += len(verdicts)
        agreed += sum(
            (verdict.decision is Decision.ACCEPT) == test["valid"]
            for verdict, test in zip(verdicts, row["tests"], strict=True)
        )
    assert total == 3383
    assert agreed >= 0.998 * total
