"""ValidatorService on the wire: messages in, messages out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from services.validator.court import Court
from services.validator.inspector import Inspector
from services.validator.verdict import Answer, Constraint, Decision, End, Finding, FindingKind, Piece, Verdict
from spillway import v1
from spillway.errors import ConstraintUnsupported, FieldViolation, RequestInvalid
from spillway.rpc.call import current_call
from spillway.v1 import validator_pb2_grpc

NAME = "spillway.v1.ValidatorService"

DECISIONS = {
    Decision.ACCEPT: v1.VERDICT_DECISION_ACCEPT,
    Decision.REPAIR: v1.VERDICT_DECISION_REPAIR,
    Decision.RETRY: v1.VERDICT_DECISION_RETRY,
    Decision.REJECT: v1.VERDICT_DECISION_REJECT,
}
KINDS = {
    FindingKind.JSON_MISSING: v1.FINDING_KIND_JSON_MISSING,
    FindingKind.JSON_MALFORMED: v1.FINDING_KIND_JSON_MALFORMED,
    FindingKind.SCHEMA: v1.FINDING_KIND_SCHEMA,
    FindingKind.CHOICE: v1.FINDING_KIND_CHOICE,
    FindingKind.REGEX: v1.FINDING_KIND_REGEX,
    FindingKind.TRUNCATED: v1.FINDING_KIND_TRUNCATED,
    FindingKind.REPAIRED: v1.FINDING_KIND_REPAIRED,
}


class ValidatorServicer(validator_pb2_grpc.ValidatorServiceServicer):
    """Converts, asks the court or the inspector, converts."""

    def __init__(self, court: Court, inspector: Inspector) -> None:
        self._court = court
        self._inspector = inspector

    async def Validate(self, request: v1.ValidateRequest, context: Any) -> v1.ValidateResponse:
        answers = [Answer(answer.text, answer.truncated) for answer in request.answers]
        verdicts = await self._court.judge(current_call(), constraint(request.constraint), answers)
        return v1.ValidateResponse(verdicts=[message(verdict) for verdict in verdicts])

    async def ValidateStream(
        self, requests: AsyncIterator[v1.ValidateStreamRequest], context: Any
    ) -> AsyncIterator[v1.ValidateStreamResponse]:
        first = await anext(aiter(requests), None)
        if first is None or not first.HasField("constraint"):
            said = "comes first: say what the answers have to be"
            raise RequestInvalid(f"constraint {said}", fields=[FieldViolation("constraint", said)])
        wanted = constraint(first.constraint)
        async with aclosing(self._court.follow(current_call(), wanted, _steps(requests))) as verdicts:
            async for told in verdicts:
                yield v1.ValidateStreamResponse(choice=told.choice, verdict=message(told.verdict), early=told.early)

    async def InspectInput(self, request: v1.InspectInputRequest, context: Any) -> v1.InspectInputResponse:
        found = await self._inspector.inspect(current_call(), request.texts)
        return v1.InspectInputResponse(
            spans=[
                v1.SensitiveSpan(text=index, start=span.start, end=span.end, kind=span.kind, rule=span.rule)
                for index, spans in enumerate(found)
                for span in spans
            ]
        )


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


def constraint(asked: v1.OutputConstraint) -> Constraint:
    """Return what is asked for. Raises RequestInvalid if nothing is, ConstraintUnsupported for a grammar."""
    match asked.WhichOneof("constraint"):
        case "json_schema":
            return Constraint("json_schema", asked.json_schema, repair=asked.repair != v1.REPAIR_FORBIDDEN)
        case "regex":
            return Constraint("regex", asked.regex)
        case "choices":
            return Constraint("choices", choices=tuple(asked.choices.values))
        case "json_object" if asked.json_object:
            return Constraint("json_object", repair=asked.repair != v1.REPAIR_FORBIDDEN)
        case "grammar":
            said = "a grammar is in the dialect of one target and cannot be checked here"
            raise ConstraintUnsupported(
                f"constraint.grammar: {said}", fields=[FieldViolation("constraint.grammar", said)]
            )
        case "json_object":
            said = "is false: set it to true or leave it out"
            raise RequestInvalid(
                f"constraint.json_object {said}", fields=[FieldViolation("constraint.json_object", said)]
            )
        case _:
            said = "is empty: say what the answers have to be"
            raise RequestInvalid(f"constraint {said}", fields=[FieldViolation("constraint", said)])


def message(verdict: Verdict) -> v1.Verdict:
    """Return `verdict` as it travels."""
    return v1.Verdict(
        decision=DECISIONS[verdict.decision],
        findings=[_finding(finding) for finding in verdict.findings],
        accepted_json=verdict.accepted_json,
        instruction=verdict.instruction,
    )


def _finding(finding: Finding) -> v1.Finding:
    return v1.Finding(
        kind=KINDS[finding.kind], path=finding.path, schema_path=finding.schema_path, message=finding.message
    )
