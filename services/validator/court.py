"""Where answers are judged: at once, or by a worker where that may take long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from services.validator.batch import MAX_TOO_MUCH, apart
from services.validator.instruction import instruction
from services.validator.judgement import Judge, mendable, unjudged
from services.validator.policies import Policies, Standard
from services.validator.rulings import Rulings
from services.validator.settings import ValidatorSettings
from services.validator.verdict import (
    SEVERITY,
    Accepted,
    Answer,
    Constraint,
    Decision,
    End,
    Piece,
    Told,
    Verdict,
    refused,
)
from services.validator.watch import Watch
from services.validator.workers import Workers
from spillway.errors import (
    ConstraintUnsupported,
    FieldViolation,
    QueueFull,
    RequestInvalid,
    SchemaInvalid,
    SpillwayError,
)
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail

AT_ONCE_CHARS = 8 * 2**10
"""Characters of a piece that are read before others have their turn: some milliseconds."""


class Court:
    """Checks what is brought, judges it, and tells the trace what was decided."""

    def __init__(
        self,
        settings: ValidatorSettings,
        *,
        workers: Workers,
        tracing: Tracing,
        registered: Mapping[str, str] | None = None,
        rulings: Rulings | None = None,
    ) -> None:
        self._rulings = rulings or Rulings(settings)
        self._settings = settings
        self._workers = workers
        self._tracing = tracing
        self._judge = Judge(settings.judgement, registered)

    @property
    def policies(self) -> Policies:
        """The policies that answers can be held to by name."""
        return self._rulings.policies

    async def judge(
        self, call: Call, constraint: Constraint, answers: Sequence[Answer], policies: Sequence[str] = ()
    ) -> list[Verdict]:
        """Return one verdict per answer, in order: the worst of what `constraint` and each of `policies` say.

        Raises RequestInvalid for bounds passed or a policy that is not there, SchemaInvalid, ConstraintUnsupported, or
        QueueFull.
        """
        span = self._tracing.start(names.JUDGE, call.span)
        try:
            self._check(constraint, answers, policies)
            standard = self.policies.named(policies)
            verdicts = [Verdict(Decision.ACCEPT) for _ in answers]
            for rule, step in standard.steps(constraint):
                told = await self._held(step, _given(answers, verdicts))
                verdicts = [each.joined(more, rule) for each, more in zip(verdicts, told, strict=True)]
            if standard.texts:
                texts = [given.text for given in _given(answers, verdicts)]
                found = await self._rulings.findings(standard, texts)
                verdicts = [each.joined(refused(more)) for each, more in zip(verdicts, found, strict=True)]
            verdicts = [self._instructed(constraint, standard, verdict) for verdict in verdicts]
            worst = max((verdict.decision for verdict in verdicts), key=SEVERITY.index)
            span.set_attribute(names.DECISION, worst.value)
            return verdicts
        except SpillwayError as error:
            fail(span, error.reason)
            raise
        finally:
            span.end()

    async def follow(
        self,
        call: Call,
        constraint: Constraint,
        steps: AsyncIterator[Piece | End],
        policies: Sequence[str] = (),
        *,
        records: bool = False,
    ) -> AsyncGenerator[Told | Accepted]:
        """Yield one verdict per answer that `steps` tell of: when it ends, or as soon as no end can make it right.

        Before it, where `records` are asked for, what is accepted of them: nothing where `policies` have rules, which
        judge the whole alone. Raises as `judge` does, and RequestInvalid where answers cannot have records. What comes
        of an answer after its verdict is read over.
        """
        self._check(constraint, [Answer("")], policies)
        if records and constraint.kind not in ("json_schema", "json_object"):
            raise _outside("records", "are told of answers in JSON alone")
        standard = self.policies.named(policies)
        constraint = replace(constraint, repair=constraint.repair and standard.mends)
        records = records and not standard.rules
        # Where a policy asks for JSON, choices are of what is found in an answer, not of how that begins.
        found = not constraint.json and any(step.json for _, step in standard.steps(constraint))
        seen = Constraint("any") if found else constraint
        watches: dict[int, Watch | None] = {}
        async for step in steps:
            if step.choice not in watches:
                if len(watches) >= self._settings.judgement.max_answers:
                    raise _outside("piece.choice", f"is one more than {self._settings.judgement.max_answers} answers")
                watches[step.choice] = self._judge.watch(seen, standard.readers(constraint), records=records)
            watch = watches[step.choice]
            if watch is None:
                continue
            if isinstance(step, End):
                watches[step.choice] = None
                verdicts = await self.judge(call, constraint, [Answer(watch.text, step.truncated)], policies)
                yield Told(step.choice, verdicts[0])
                continue
            if watch.size + len(step.text.encode()) > self._settings.judgement.max_answer_bytes:
                raise _outside("piece.text", f"at most {self._settings.judgement.max_answer_bytes} bytes are judged")
            for at in range(0, len(step.text), AT_ONCE_CHARS):
                if at:
                    await asyncio.sleep(0)
                before = watch.records
                verdict = watch.take(step.text[at : at + AT_ONCE_CHARS])
                if watch.records != before:
                    yield Accepted(step.choice, *watch.records)
                if verdict is not None:
                    watches[step.choice] = None
                    yield Told(step.choice, self._instructed(constraint, standard, verdict), early=True)
                    break

    async def _held(self, constraint: Constraint, answers: Sequence[Answer]) -> list[Verdict]:
        """Return what `constraint` says of each answer; broken JSON is mended where that may be."""
        verdicts = self._at_once(constraint, answers)
        if verdicts is None:
            asked = await apart(partial(self._workers.judge, constraint), answers)
            verdicts = [unjudged(constraint) if isinstance(one, SpillwayError) else one for one in asked]
        lost = 0
        for place, answer in enumerate(answers):
            if lost <= MAX_TOO_MUCH and mendable(constraint, answer, verdicts[place]):
                mended = await self._mended(constraint, answer)
                lost += mended is None
                verdicts[place] = mended or verdicts[place]
        return verdicts

    def _at_once(self, constraint: Constraint, answers: Sequence[Answer]) -> list[Verdict] | None:
        """Return the verdicts where that takes little; None where they are for a worker to find."""
        bounds = self._settings.workers
        if self._judge.quick(constraint, answers, work=bounds.inline_work, size=bounds.inline_bytes):
            return self._judge.judge(constraint, answers)
        if self._judge.quick(constraint, answers, work=bounds.inline_accept_work, size=bounds.inline_bytes):
            return self._judge.accepted(constraint, answers)
        return None

    async def _mended(self, constraint: Constraint, answer: Answer) -> Verdict | None:
        """Return the verdict on `answer` once it is mended; None where that takes too much."""
        try:
            return (await self._workers.judge(constraint, [answer], mend=True))[0]
        except (ConstraintUnsupported, QueueFull):
            return None

    def _instructed(self, constraint: Constraint, standard: Standard, verdict: Verdict) -> Verdict:
        """Return `verdict`, its findings bounded, with what to tell the model, where another attempt may succeed."""
        verdict = replace(verdict, findings=verdict.findings[: self._settings.judgement.max_findings])
        if verdict.decision is not Decision.RETRY:
            return verdict
        said = instruction(constraint, self._judge.form(constraint), verdict.findings, standard.wishes)
        return replace(verdict, instruction=said)

    def _check(self, constraint: Constraint, answers: Sequence[Answer], policies: Sequence[str]) -> None:
        bounds = self._settings.judgement
        if len(policies) > bounds.max_policies:
            raise _outside("policies", f"has {len(policies)} entries; at most {bounds.max_policies} are named at once")
        if (size := len(constraint.text.encode())) > bounds.max_schema_bytes:
            said = f"has {size} bytes; at most {bounds.max_schema_bytes} are accepted"
            field = f"constraint.{constraint.kind}"
            kind = SchemaInvalid if constraint.kind == "json_schema" else RequestInvalid
            raise kind(f"{field}: {said}", fields=[FieldViolation(field, said)])
        self._check_schemas(constraint)
        wrong = list(self._violations(constraint, answers))
        if wrong:
            raise RequestInvalid("; ".join(f"{one.field}: {one.description}" for one in wrong[:3]), fields=wrong)

    def _check_schemas(self, constraint: Constraint) -> None:
        bounds, brought = self._settings.judgement, constraint.schemas
        if len(brought) > bounds.max_schemas:
            raise _outside("constraint.schemas", f"has {len(brought)} entries; at most {bounds.max_schemas} are read")
        if (size := sum(len(text.encode()) for _, text in brought)) > bounds.max_schemas_bytes:
            raise _outside(
                "constraint.schemas", f"have {size} bytes together; at most {bounds.max_schemas_bytes} are read"
            )

    def _violations(self, constraint: Constraint, answers: Sequence[Answer]) -> Iterator[FieldViolation]:
        bounds = self._settings.judgement
        if constraint.kind == "choices" and not constraint.choices:
            yield FieldViolation("constraint.choices.values", "is empty: give at least one choice")
        if constraint.kind == "regex" and not constraint.text:
            yield FieldViolation("constraint.regex", "is empty")
        if not answers:
            yield FieldViolation("answers", "is empty: give at least one answer")
        elif len(answers) > bounds.max_answers:
            yield FieldViolation(
                "answers", f"has {len(answers)} entries; at most {bounds.max_answers} are judged at once"
            )
        for index, answer in enumerate(answers[: bounds.max_answers]):
            if (size := len(answer.text.encode())) > bounds.max_answer_bytes:
                said = f"has {size} bytes; at most {bounds.max_answer_bytes} are judged"
                yield FieldViolation(f"answers[{index}].text", said)

    def __repr__(self) -> str:
        return f"<Court {self._judge!r} {self._workers!r}>"


def _given(answers: Sequence[Answer], verdicts: Sequence[Verdict]) -> list[Answer]:
    return [verdict.given(answer) for answer, verdict in zip(answers, verdicts, strict=True)]


def _outside(field: str, said: str) -> RequestInvalid:
    return RequestInvalid(f"{field}: {said}", fields=[FieldViolation(field, said)])
