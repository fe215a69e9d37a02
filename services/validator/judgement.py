"""The judgement of one answer: a constraint and a text in, a verdict out. No waiting, no clock, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from services.validator import expression, repair
from services.validator.damage import damage
from services.validator.extraction import Candidate, candidates
from services.validator.registered import FIELD, Registered
from services.validator.rules.rule import Reader
from services.validator.schema import Schema, Schemas, Unfinished, unfinished
from services.validator.settings import JudgementSettings
from services.validator.verdict import Answer, Constraint, Decision, Finding, FindingKind, Verdict
from services.validator.watch import Watch

_ANY_OBJECT = '{"type": "object"}'
_SEVERAL = Finding(FindingKind.SCHEMA, "several values in the answer fit, and they differ; answer with one alone")
_CUT = Finding(FindingKind.TRUNCATED, "the answer was cut off before its end; allow more tokens or ask for less")


class Judge:
    """Judges answers within the bounds of `settings`, and knows beforehand which may take long.

    `registered` are the texts of schemas that every other one may refer to, by their URI.
    """

    def __init__(self, settings: JudgementSettings, registered: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._schemas = Schemas(
            limit=settings.cached_schemas,
            limit_bytes=settings.cached_schema_bytes,
            settled=Registered(max_depth=settings.max_schema_depth).joined((registered or {}).items()),
        )

    def judge(self, constraint: Constraint, answers: Sequence[Answer], *, mend: bool = False) -> list[Verdict]:
        """Return one verdict per answer; `mend` broken JSON first, which may take long.

        Raises SchemaInvalid, RequestInvalid or ConstraintUnsupported.
        """
        match constraint.kind:
            case "json_schema":
                compiled = self._schemas.get(constraint.text, constraint.schemas)
                return [self._json(compiled, answer, mend=mend) for answer in answers]
            case "json_object":
                compiled = self._schemas.get(_ANY_OBJECT)
                return [self._json(compiled, answer, mend=mend) for answer in answers]
            case "regex":
                wanted = expression.compiled(constraint.text)
                return [self._regex(wanted, answer) for answer in answers]
            case "choices":
                return [self._choice(constraint.choices, answer) for answer in answers]
            case "any":
                return [Verdict(Decision.ACCEPT) for _ in answers]

    def watch(
        self, constraint: Constraint, readers: Sequence[tuple[str, Reader]] = (), *, records: bool = False
    ) -> Watch:
        """Return who watches one answer on its way, and has `readers` read it too, each by its rule's name.

        Raises SchemaInvalid where that is seen at once.
        """
        wanted: Schema | None = None
        if constraint.kind == "json_object":
            wanted = self._schemas.get(_ANY_OBJECT)
        elif constraint.kind == "json_schema" and self._schemas.at_hand(constraint.text, constraint.schemas):
            found = self._schemas.get(constraint.text, constraint.schemas)
            wanted = None if found.weight is None else found
        return Watch(constraint, wanted, max_depth=self._settings.max_depth, readers=readers, records=records)

    def form(self, constraint: Constraint) -> str | None:
        """Return the form that `constraint` asks for, None where it has none or is too heavy to be looked at."""
        heavy = constraint.kind != "json_schema" or (constraint.text, constraint.schemas) not in self._schemas
        return None if heavy else self._schemas.get(constraint.text, constraint.schemas).form

    def quick(self, constraint: Constraint, answers: Sequence[Answer], *, work: int, size: int) -> bool:
        """Whether judging takes at most `work` steps (schema nodes times answer nodes) over `size` bytes of answers.

        Raises SchemaInvalid where that is seen on the way.
        """
        if sum(len(answer.text) for answer in answers) > size:
            return False
        match constraint.kind:
            case "choices" | "any":
                return True
            case "regex":
                return expression.light(constraint.text)
            case "json_object":
                weight: int | None = 1
            case "json_schema":
                if not self._schemas.at_hand(constraint.text, constraint.schemas):
                    return False
                weight = self._schemas.get(constraint.text, constraint.schemas).weight
        return weight is not None and weight * sum(nodes(answer.text) for answer in answers) <= work

    def accepted(self, constraint: Constraint, answers: Sequence[Answer]) -> list[Verdict] | None:
        """Return one verdict per answer where all of them are JSON alone and right; None where that is not so.

        It takes a small part of the time that telling what is wrong can take.
        """
        if constraint.kind != "json_schema":
            return None
        wanted = self._schemas.get(constraint.text, constraint.schemas)
        verdicts = []
        for answer in answers:
            first = next(candidates(answer.text, max_depth=self._settings.max_depth), None)
            if first is None or not first.whole or first.problem or (answer.truncated and _may_go_on(first)):
                return None
            if not wanted.accepts(first.value):
                return None
            verdicts.append(Verdict(Decision.ACCEPT, accepted_json=first.text))
        return verdicts

    def _json(self, wanted: Schema, answer: Answer, *, mend: bool) -> Verdict:
        best: Candidate | None = None
        broken: Candidate | None = None
        taken: Candidate | None = None
        for candidate in candidates(answer.text, max_depth=self._settings.max_depth):
            if candidate.problem:
                broken = candidate if broken is None or len(candidate.text) > len(broken.text) else broken
            elif not (answer.truncated and _may_go_on(candidate)) and wanted.accepts(candidate.value):
                if candidate.whole:
                    return Verdict(Decision.ACCEPT, accepted_json=candidate.text)
                if taken is not None and taken.fenced and not candidate.fenced:
                    break  # what is set apart counts before what is in the text
                if taken is not None and not _same(taken, candidate):
                    return self._refused(answer, (_SEVERAL,))
                taken = taken or candidate
            elif best is None or len(candidate.text) > len(best.text):
                best = candidate
        if taken is not None:
            return Verdict(Decision.REPAIR, accepted_json=taken.text)
        if mend and broken is not None and (repaired := self._mended(wanted, broken)) is not None:
            return repaired
        hopeless = False
        found: tuple[Finding, ...]
        if best is not None and (broken is None or _outranks(best, broken)):
            try:
                found, hopeless = wanted.findings(
                    best.value, limit=self._settings.max_findings, max_chars=self._settings.max_message_chars
                )
            except Unfinished:
                raise unfinished(FIELD) from None
        elif broken is not None:
            found = (Finding(FindingKind.JSON_MALFORMED, f"the JSON is broken: {broken.problem}"),)
        elif answer.text.strip():
            found = (Finding(FindingKind.JSON_MISSING, "there is no JSON in the answer; answer with JSON alone"),)
        else:
            found = (Finding(FindingKind.JSON_MISSING, "the answer is empty; answer with JSON"),)
        return self._refused(answer, found, Decision.REJECT if hopeless else Decision.RETRY)

    def _mended(self, wanted: Schema, broken: Candidate) -> Verdict | None:
        """Return the verdict on what `broken` was meant to be, where that satisfies the schema."""
        made = repair.mended(broken.text, max_depth=self._settings.max_depth)
        if made is None or not wanted.accepts(made.value):
            return None
        wrong = ", ".join(map(str, damage(broken.text))) or broken.problem
        left = f"; left out: {' '.join(made.left_out)}" if made.left_out else ""
        said = f"the JSON was broken and has been mended: {wrong}{left}"[: self._settings.max_message_chars]
        return Verdict(Decision.REPAIR, (Finding(FindingKind.REPAIRED, said),), accepted_json=made.text)

    def _regex(self, wanted: expression.Expression, answer: Answer) -> Verdict:
        matches = wanted.matches(answer.text)
        if matches and not answer.truncated:
            return Verdict(Decision.ACCEPT)
        if matches:  # it might have gone on
            return self._refused(answer, ())
        said = "the answer as a whole does not match the regular expression"
        if wanted.matches(answer.text.strip()):
            said += "; only the white space around it is wrong"
        return self._refused(answer, (Finding(FindingKind.REGEX, said),))

    def _choice(self, choices: Sequence[str], answer: Answer) -> Verdict:
        text = answer.text.strip()
        if text in choices or answer.text in choices:
            longer = answer.truncated and any(choice != text and choice.startswith(text) for choice in choices)
            return self._refused(answer, ()) if longer else Verdict(Decision.ACCEPT)
        limit = self._settings.max_message_chars
        said = "answer with exactly one of: " + ", ".join(repr(choice) for choice in choices[:limit])
        said = said if len(said) <= limit else said[: limit - 1] + "…"
        return self._refused(answer, (Finding(FindingKind.CHOICE, said),))

    def _refused(self, answer: Answer, found: tuple[Finding, ...], decision: Decision = Decision.RETRY) -> Verdict:
        return Verdict(decision, ((_CUT, *found) if answer.truncated else found)[: self._settings.max_findings])

    def __repr__(self) -> str:
        return f"<Judge {self._schemas!r}>"


def unjudged(constraint: Constraint) -> Verdict:
    """The verdict on an answer that takes too long to judge by `constraint`, which others do not."""
    kind = FindingKind.SCHEMA if constraint.json else FindingKind.REGEX
    return Verdict(Decision.RETRY, (Finding(kind, "this answer takes too long to judge; answer more briefly"),))


def mendable(constraint: Constraint, answer: Answer, verdict: Verdict) -> bool:
    """Whether `answer` was refused for JSON that is broken, and may be mended. One that was cut off may not."""
    broken = any(finding.kind is FindingKind.JSON_MALFORMED for finding in verdict.findings)
    return constraint.repair and broken and not answer.truncated


def nodes(text: str) -> int:
    """An upper bound of the values in JSON `text`, plus its share for searching strings."""
    return 1 + text.count(",") + text.count("[") + text.count("{") + len(text) // 64


def _may_go_on(candidate: Candidate) -> bool:
    """Whether a cut right after `candidate` leaves its end unknown: 12 may have been 123."""
    return candidate.at_end and isinstance(candidate.value, int | float) and not isinstance(candidate.value, bool)


def _outranks(best: Candidate, broken: Candidate) -> bool:
    """Whether the answer is meant to be `best`, which is JSON, and not `broken`."""
    return not isinstance(best.value, str) and len(best.text) >= len(broken.text)


def _same(one: Candidate, other: Candidate) -> bool:
    """Whether both are the same value, as JSON tells values apart: 1 is not true."""
    if one.text == other.text:
        return True
    return json.dumps(one.value, sort_keys=True) == json.dumps(other.value, sort_keys=True)
