"""ValidateStream over a real channel: answers judged while they arrive."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from services.validator.settings import JudgementSettings
from spillway import errors, v1
from spillway.rpc.status import from_rpc_error
from spillway.v1 import validator_pb2_grpc
from tests.unit.services.validator.test_app import validator

LABEL = {"type": "object", "properties": {"label": {"enum": ["billing", "delivery"]}}, "required": ["label"]}
SCHEMA = v1.OutputConstraint(json_schema=json.dumps(LABEL))
CHOICES = v1.OutputConstraint(choices=v1.Choices(values=["yes", "no", "not sure"]))


class Stream:
    """One open ValidateStream."""

    def __init__(self, rpc: Any) -> None:
        self._rpc = rpc

    async def say(self, *pieces: str, choice: int = 0) -> None:
        for piece in pieces:
            await self._rpc.write(v1.ValidateStreamRequest(piece=v1.AnswerPiece(choice=choice, text=piece)))

    async def end(self, *, choice: int = 0, truncated: bool = False) -> None:
        await self._rpc.write(v1.ValidateStreamRequest(end=v1.AnswerEnd(choice=choice, truncated=truncated)))

    async def told(self) -> v1.ValidateStreamResponse:
        try:
            response = await self._rpc.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        assert isinstance(response, v1.ValidateStreamResponse), "the stream is over"
        return response

    async def over(self) -> bool:
        """Say that no more is to come; whether nothing more was told."""
        await self._rpc.done_writing()
        return bool(await self._rpc.read() is grpc.aio.EOF)


@asynccontextmanager
async def stream(
    constraint: v1.OutputConstraint | None, *, judgement: JudgementSettings | None = None, records: bool = False
) -> AsyncIterator[Stream]:
    async with validator(judgement=judgement) as served:
        rpc = validator_pb2_grpc.ValidatorServiceStub(served.channel).ValidateStream(timeout=60)
        try:
            if constraint is not None:
                await rpc.write(v1.ValidateStreamRequest(constraint=constraint, records=records))
            yield Stream(rpc)
        finally:
            rpc.cancel()


@pytest.mark.parametrize(
    ("constraint", "pieces"),
    [
        (SCHEMA, ['{"lab', 'el": "ref', "und"]),
        (SCHEMA, ["```json\n", '{"label": 7']),
        (v1.OutputConstraint(json_object=True), ["  [", '"1", 2']),
        (CHOICES, ["may", "be"]),
    ],
)
async def test_what_no_end_can_make_right_is_told_at_once(constraint: v1.OutputConstraint, pieces: list[str]) -> None:
    async with stream(constraint) as open:
        await open.say(*pieces)
        told = await open.told()
        assert told.early
        assert told.verdict.decision == v1.VERDICT_DECISION_RETRY
        assert told.verdict.findings[0].message
        await open.say(" and", " more")  # of an answer that has its verdict
        await open.end()
        assert await open.over()


@pytest.mark.parametrize(
    ("constraint", "pieces", "decision"),
    [
        (SCHEMA, ['{"label":', ' "billing"}'], v1.VERDICT_DECISION_ACCEPT),
        (SCHEMA, ["Sure! ", '{"label": "billing"}'], v1.VERDICT_DECISION_REPAIR),
        (SCHEMA, ["true, I think: ", '{"label": "billing"}'], v1.VERDICT_DECISION_REPAIR),
        (SCHEMA, ["[Note] ", '{"label": "billing"}'], v1.VERDICT_DECISION_REPAIR),
        (SCHEMA, ["```json\n", '{"label": "billing"}', "\n```"], v1.VERDICT_DECISION_REPAIR),
        (SCHEMA, ["{'label': 'refund'}"], v1.VERDICT_DECISION_RETRY),
        (CHOICES, ["not", " sure\n"], v1.VERDICT_DECISION_ACCEPT),
        (CHOICES, ["not"], v1.VERDICT_DECISION_RETRY),
        (v1.OutputConstraint(regex="a+"), ["aa", "a"], v1.VERDICT_DECISION_ACCEPT),
    ],
)
async def test_what_may_be_right_is_judged_at_its_end(
    constraint: v1.OutputConstraint, pieces: list[str], decision: v1.VerdictDecision.ValueType
) -> None:
    async with stream(constraint) as open:
        await open.say(*pieces)
        await open.end()
        told = await open.told()
        assert (told.early, told.verdict.decision) == (False, decision)
        assert await open.over()


async def test_every_choice_has_its_own_verdict() -> None:
    async with stream(SCHEMA) as open:
        await open.say('{"label": "bil', choice=0)
        await open.say('{"label": "re', choice=1)
        first = await open.told()
        assert (first.choice, first.early) == (1, True)
        await open.say('ling"}', choice=0)
        await open.end(choice=0)
        second = await open.told()
        assert (second.choice, second.verdict.decision) == (0, v1.VERDICT_DECISION_ACCEPT)
        assert second.verdict.accepted_json == '{"label": "billing"}'


async def test_an_answer_that_was_cut_off_is_not_accepted() -> None:
    async with stream(SCHEMA) as open:
        await open.say('{"label": "bill')
        await open.end(truncated=True)
        told = await open.told()
        assert told.verdict.findings[0].kind == v1.FINDING_KIND_TRUNCATED


async def test_records_are_told_before_the_verdict_and_fences_count() -> None:
    rows = v1.OutputConstraint(json_schema=json.dumps({"type": "array", "items": LABEL, "minItems": 2}))
    first = '```json\n[{"label": "billing"}'
    async with stream(rows, records=True) as open:
        await open.say(first, choice=1)
        told = await open.told()
        assert (told.choice, told.records, told.HasField("verdict")) == (
            1,
            v1.AcceptedRecords(count=1, end=len(first)),
            False,
        )
        await open.say(', {"label": "delivery"}, {"label": "', "r", choice=1)
        told = await open.told()
        assert (told.records.count, told.records.end) == (2, len(first) + len(', {"label": "delivery"}'))
        told = await open.told()
        assert (told.early, told.HasField("records"), told.verdict.findings[0].path) == (True, False, "/2/label")
        assert await open.over()


async def test_records_are_of_json_alone() -> None:
    async with stream(CHOICES, records=True) as open:
        await open.say("yes")
        assert [field.field for field in (await _refused(open)).fields] == ["records"]


async def _refused(open: Stream) -> errors.SpillwayError:
    with pytest.raises(errors.SpillwayError) as raised:
        await open.told()
    return raised.value


async def test_what_is_wrong_with_the_stream_itself_is_named() -> None:
    async with stream(None) as open:
        await open.say("{")
        assert [field.field for field in (await _refused(open)).fields] == ["constraint"]
    async with stream(v1.OutputConstraint(json_schema='{"type": "nothing"}')) as open:
        await open.say("{")
        assert isinstance(await _refused(open), errors.SchemaInvalid)
    async with stream(SCHEMA, judgement=JudgementSettings(max_answer_bytes=10)) as open:
        await open.say('{"label": "billing"}')
        assert [field.field for field in (await _refused(open)).fields] == ["piece.text"]
    async with stream(SCHEMA, judgement=JudgementSettings(max_answers=2)) as open:
        for choice in range(3):
            await open.say("{", choice=choice)
        assert [field.field for field in (await _refused(open)).fields] == ["piece.choice"]
