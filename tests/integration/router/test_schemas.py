"""Schemas that refer to others reach the validator whole; targets are held to them where that can be told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.validator.app import build
from services.validator.settings import ValidatorSettings, WorkerSettings
from spillway import v1
from spillway.errors import ConstraintUnsupported, SchemaInvalid
from spillway.generation import for_decoder
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.server import LOOPBACK
from tests.integration.router.mesh import Mesh, running_mesh

LABEL = {"type": "object", "properties": {"label": {"enum": ["billing", "delivery"]}}, "required": ["label"]}
URI = "https://x.example/label"
GOOD, WRONG = '{"label": "billing"}', '{"label": "refund"}'


def asked(**constraint: Any) -> v1.GenerationSpec:
    message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="which?")])
    wanted = v1.OutputConstraint(json_schema=json.dumps({"$ref": URI}), **constraint)
    return v1.GenerationSpec(chat=v1.Chat(messages=[message]), constraint=wanted)


@asynccontextmanager
async def judged(answer: Callable[[v1.GenerationSpec], str], file: Path | None = None) -> AsyncIterator[Mesh]:
    """A mesh with a real validator, which knows the schema of `file` as `URI`."""
    settings = ValidatorSettings(
        server=LOOPBACK, workers=WorkerSettings(processes=1), schemas={URI: file} if file is not None else {}
    )
    async with (
        build(settings) as validator,
        running_mesh(
            validator_address=validator.server.address, local=FakeEngine(model="small", answer=answer)
        ) as mesh,
    ):
        yield mesh


def specs(mesh: Mesh) -> list[v1.GenerationSpec]:
    return [seen.request.spec for seen in mesh.local.seen]


def guided(spec: v1.GenerationSpec) -> str:
    """What a model says that is wrong until its decoder is held to a schema without references to others."""
    return WRONG if spec.constraint.enforcement == v1.ENFORCEMENT_CHECKED or for_decoder(spec) is spec else GOOD


def told(spec: v1.GenerationSpec) -> str:
    """What a model says that is wrong until it is told so."""
    return GOOD if "refused" in spec.chat.messages[-1].parts[0].text else WRONG


async def test_what_comes_along_is_judged_by_and_told_to_the_target() -> None:
    async with judged(guided) as mesh:
        answer = await mesh.generate(asked(schemas={URI: json.dumps(LABEL)}))
        assert answer.choices[0].content.text == GOOD
        assert answer.usage.verdict.decision == v1.VERDICT_DECISION_ACCEPT
        free = asked(schemas={URI: json.dumps(LABEL)}, enforcement=v1.ENFORCEMENT_CHECKED)
        await mesh.generate(free)
        assert mesh.outcomes() == ["local:answered", "local:refused_by_validator", "local:answered"]
        assert specs(mesh)[-1].constraint.enforcement == v1.ENFORCEMENT_GUIDED


async def test_what_the_validator_alone_knows_is_answered_freely_judged_and_explained(tmp_path: Path) -> None:
    file = tmp_path / "label.json"
    file.write_text(json.dumps(LABEL))
    async with judged(told, file) as mesh:
        answer = await mesh.generate(asked())
        assert answer.choices[0].content.text == GOOD
        assert mesh.outcomes() == ["local:refused_by_validator", "local:answered"]
        assert {spec.constraint.enforcement for spec in specs(mesh)} == {v1.ENFORCEMENT_CHECKED}
        instruction = specs(mesh)[-1].chat.messages[-1].parts[0].text
        assert '"billing" | "delivery"' in instruction
        with pytest.raises(SchemaInvalid) as refused:
            await mesh.generate(asked(schemas={URI: "true"}))
        assert refused.value.fields[0].field == f"constraint.schemas[{URI}]"


async def test_where_nothing_judges_the_target_is_asked_and_not_left_free() -> None:
    def engine(spec: v1.GenerationSpec) -> str:
        for_decoder(spec)
        return GOOD

    async with judged(engine) as mesh:
        with pytest.raises(ConstraintUnsupported):
            for_decoder(asked())
        await mesh.generate(asked(schemas={URI: json.dumps(LABEL)}), v1.RoutingPolicy(validation=v1.VALIDATION_OFF))
        assert specs(mesh)[-1].constraint.enforcement != v1.ENFORCEMENT_CHECKED
