"""docs/providers/openai.md: its example runs, its tables are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from spillway import v1
from spillway.openai.errors import PROVIDERS, understood
from spillway.testing.openai_simulator import OpenAISimulator
from tests.integration.cloud_proxy.rig import running, spec

PAGE = (Path(__file__).parents[3] / "docs" / "providers" / "openai.md").read_text()
EXAMPLE = yaml.safe_load(PAGE.partition("```yaml\n")[2].partition("```")[0])["cloud_proxy"]["providers"]


def rows_under(heading: str) -> Iterator[list[str]]:
    """The cells of every row of the table under `heading`."""
    for line in PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines():
        if line.startswith("| ") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("provider", EXAMPLE, ids=lambda provider: provider["name"])
async def test_the_example_answers(valkey: str, provider: dict[str, Any]) -> None:
    thinks = "reasoning_effort" in provider["models"][0].get("capabilities", ())
    simulator = OpenAISimulator(reasoning_tokens=int(thinks), thoughts="so")
    async with running(simulator, valkey, environ={"OPENAI_API_KEY": "sk-x"}, **provider) as rig:
        told = await rig.stream(spec(model=f"{provider['name']}/{provider['models'][0]['name']}"))
    assert told.choices[0].content.text.startswith("Simulated")
    assert told.choices[0].content.reasoning == ("so" if thinks else "")
    assert simulator.seen[0].key_sent


def test_every_field_of_the_contract_has_its_row() -> None:
    named = " ".join(row[0] for row in rows_under("What goes where"))
    fields = [
        name
        for message in (v1.GenerationSpec, v1.Sampling, v1.Stop, v1.Logprobs, v1.PromptCache, v1.OutputConstraint)
        for name in message.DESCRIPTOR.fields_by_name
    ]
    assert [name for name in fields if name not in re.findall(r"\w+", named)] == []


def test_every_row_of_the_error_table_is_the_codes_own() -> None:
    [_, *rows] = rows_under("Errors")
    told: set[str | int] = set()
    for codes, statuses, reason, elsewhere in rows:
        for code in re.findall(r"`(\w+)`", codes):
            told.add(code)
            error = understood("openai", 418, {"error": {"code": code}}, {}, now=0.0)
            assert (error.reason, error.elsewhere) == (reason, elsewhere != "no"), code
        for status in (int(one) for one in re.findall(r"\d+", statuses)):
            told.add(status)
            assert understood("openai", status, None, {}, now=0.0).reason == reason, status
    known = {one for row in PROVIDERS.rows for one in (*row.codes, *row.statuses)}
    assert {one for one in known - told if "image" not in str(one)} == set()
