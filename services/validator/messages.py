"""The validator's words as they travel, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.validator.policies import Policy
from services.validator.sensitive.span import Span
from services.validator.verdict import Accepted, Constraint, Decision, Finding, FindingKind, Told, Verdict
from spillway import v1
from spillway.errors import ConstraintUnsupported, FieldViolation, RequestInvalid
from spillway.placeholders import Placeholder

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
    FindingKind.LENGTH: v1.FINDING_KIND_LENGTH,
    FindingKind.LANGUAGE: v1.FINDING_KIND_LANGUAGE,
    FindingKind.FORBIDDEN: v1.FINDING_KIND_FORBIDDEN,
    FindingKind.CUSTOM: v1.FINDING_KIND_CUSTOM,
}


def constraint(asked: v1.OutputConstraint, policies: Sequence[str] = ()) -> Constraint:
    """Return what is asked for: nothing, where `policies` ask for something.

    Raises RequestInvalid if nothing is, ConstraintUnsupported for a grammar.
    """
    match asked.WhichOneof("constraint"):
        case "json_schema":
            return Constraint(
                "json_schema",
                asked.json_schema,
                repair=asked.repair != v1.REPAIR_FORBIDDEN,
                schemas=tuple(sorted(asked.schemas.items())),
            )
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
        case None if policies:
            return Constraint("any", repair=asked.repair != v1.REPAIR_FORBIDDEN)
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


def told(news: Told | Accepted) -> v1.ValidateStreamResponse:
    """Return `news` of a stream as it travels."""
    if isinstance(news, Accepted):
        records = v1.AcceptedRecords(count=news.count, end=news.end)
        return v1.ValidateStreamResponse(choice=news.choice, records=records)
    return v1.ValidateStreamResponse(choice=news.choice, verdict=message(news.verdict), early=news.early)


def span_message(text: int, span: Span) -> v1.SensitiveSpan:
    """Return `span` of the text of that index as it travels."""
    return v1.SensitiveSpan(text=text, start=span.start, end=span.end, kind=span.kind, rule=span.rule)


def placeholders(told: Iterable[v1.Placeholder]) -> list[Placeholder]:
    """Return the placeholders of a request."""
    return [Placeholder(one.token, one.original, one.kind) for one in told]


def placeholder_message(one: Placeholder) -> v1.Placeholder:
    """Return `one` as it travels."""
    return v1.Placeholder(token=one.token, original=one.original, kind=one.kind)


def _finding(finding: Finding) -> v1.Finding:
    return v1.Finding(
        kind=KINDS[finding.kind],
        path=finding.path,
        schema_path=finding.schema_path,
        message=finding.message,
        rule=finding.rule,
    )


def policy_message(policy: Policy) -> v1.JudgementPolicy:
    """Return `policy` as it travels."""
    return v1.JudgementPolicy(
        name=policy.name,
        description=policy.description,
        rules=[
            v1.JudgementRule(
                name=held.name, kind=held.kind, description=held.rule.description, plugin=held.distribution
            )
            for held in policy.rules
        ],
    )
