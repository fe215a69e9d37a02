"""ValidatorService on the wire: messages in, messages out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from services.validator.court import Court
from services.validator.inspector import Inspector
from services.validator.messages import (
    constraint,
    message,
    placeholder_message,
    placeholders,
    policy_message,
    span_message,
    told,
)
from services.validator.redactor import Redactor
from services.validator.score_messages import score_message
from services.validator.scorer import Scorer
from services.validator.verdict import Answer, End, Piece
from spillway import v1
from spillway.errors import FieldViolation, RequestInvalid
from spillway.rpc.call import current_call
from spillway.v1 import validator_pb2_grpc

NAME = "spillway.v1.ValidatorService"


class ValidatorServicer(validator_pb2_grpc.ValidatorServiceServicer):
    """Converts, asks whoever it concerns, converts."""

    def __init__(self, court: Court, inspector: Inspector, redactor: Redactor, scorer: Scorer) -> None:
        self._court = court
        self._inspector = inspector
        self._redactor = redactor
        self._scorer = scorer

    async def Validate(self, request: v1.ValidateRequest, context: Any) -> v1.ValidateResponse:
        answers = [Answer(answer.text, answer.truncated) for answer in request.answers]
        wanted = constraint(request.constraint, request.policies)
        verdicts = await self._court.judge(current_call(), wanted, answers, request.policies)
        return v1.ValidateResponse(verdicts=[message(verdict) for verdict in verdicts])

    async def ValidateStream(
        self, requests: AsyncIterator[v1.ValidateStreamRequest], context: Any
    ) -> AsyncIterator[v1.ValidateStreamResponse]:
        first = await anext(aiter(requests), None)
        if first is None or not (first.HasField("constraint") or first.policies):
            said = "comes first: say what the answers have to be"
            raise RequestInvalid(f"constraint {said}", fields=[FieldViolation("constraint", said)])
        wanted = constraint(first.constraint, first.policies)
        following = self._court.follow(current_call(), wanted, _steps(requests), first.policies, records=first.records)
        async with aclosing(following) as heard:
            async for news in heard:
                yield told(news)

    async def InspectInput(self, request: v1.InspectInputRequest, context: Any) -> v1.InspectInputResponse:
        found = await self._inspector.inspect(current_call(), request.texts)
        return v1.InspectInputResponse(
            spans=[span_message(index, span) for index, seen in enumerate(found) for span in seen.spans],
            marks=[span_message(index, mark) for index, seen in enumerate(found) for mark in seen.marks],
        )

    async def ScoreConfidence(self, request: v1.ScoreConfidenceRequest, context: Any) -> v1.ScoreConfidenceResponse:
        return score_message(await self._scorer.score(current_call(), request))

    async def Redact(self, request: v1.RedactRequest, context: Any) -> v1.RedactResponse:
        known = placeholders(request.placeholders)
        told = await self._redactor.redact(current_call(), request.texts, frozenset(request.kinds), known)
        return v1.RedactResponse(texts=told.texts, placeholders=map(placeholder_message, told.placeholders))

    async def Restore(self, request: v1.RestoreRequest, context: Any) -> v1.RestoreResponse:
        known = placeholders(request.placeholders)
        return v1.RestoreResponse(texts=await self._redactor.restore(current_call(), request.texts, known))

    async def ListPolicies(self, request: v1.ListPoliciesRequest, context: Any) -> v1.ListPoliciesResponse:
        return v1.ListPoliciesResponse(policies=[policy_message(policy) for policy in self._court.policies])


async def _steps(requests: AsyncIterator[v1.ValidateStreamRequest]) -> AsyncIterator[Piece | End]:
    async for request in requests:
        match request.WhichOneof("step"):
            case "piece":
                yield Piece(request.piece.choice, request.piece.text)
            case "end":
                yield End(request.end.choice, request.end.truncated)
            case _:
                said = "is neither a piece nor the end of an answer"
                raise RequestInvalid(f"step {said}", fields=[FieldViolation("step", said)])
