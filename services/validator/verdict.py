"""What is asked of an answer, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal


class Decision(Enum):
    """What is to be done with an answer, from best to worst."""

    ACCEPT = "accept"
    REPAIR = "repair"
    RETRY = "retry"
    REJECT = "reject"


SEVERITY = list(Decision)
"""Decisions, from best to worst."""


class FindingKind(Enum):
    """What was found wrong."""

    JSON_MISSING = "json_missing"
    JSON_MALFORMED = "json_malformed"
    SCHEMA = "schema"
    CHOICE = "choice"
    REGEX = "regex"
    TRUNCATED = "truncated"
    REPAIRED = "repaired"
    LENGTH = "length"
    LANGUAGE = "language"
    FORBIDDEN = "forbidden"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `path` points into the answer's JSON, `schema_path` into the schema."""

    kind: FindingKind
    message: str
    path: str = ""
    schema_path: str = ""
    rule: str = ""
    """The rule that was broken, where a judgement policy has it: POLICY.RULE."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one answer; `accepted_json` is empty unless a JSON value was asked for and found."""

    decision: Decision
    findings: tuple[Finding, ...] = ()
    accepted_json: str = ""
    instruction: str = ""
    """What to tell the model for another attempt."""

    def given(self, answer: Answer) -> Answer:
        """What is given to the caller of an answer that this is said of."""
        return Answer(self.accepted_json) if self.decision is Decision.REPAIR else answer

    def joined(self, more: Verdict, rule: str = "") -> Verdict:
        """Return the worse of this and `more`, which is what `rule` says of what is given, with all findings."""
        found = tuple(replace(one, rule=rule) for one in more.findings) if rule else more.findings
        decision = max(self.decision, more.decision, key=SEVERITY.index)
        accepted = decision in (Decision.ACCEPT, Decision.REPAIR)
        json = (more.accepted_json or self.accepted_json) if accepted else ""
        return Verdict(decision, self.findings + found, json)


def refused(findings: Sequence[Finding]) -> Verdict:
    """The verdict on an answer that another attempt may be better than, if there are `findings`."""
    return Verdict(Decision.RETRY if findings else Decision.ACCEPT, tuple(findings))


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer has to be. `text` is the schema or the expression; `any` is what policies alone judge."""

    kind: Literal["json_schema", "json_object", "regex", "choices", "any"]
    text: str = ""
    choices: tuple[str, ...] = ()
    repair: bool = True
    """Broken JSON may be mended."""
    schemas: tuple[tuple[str, str], ...] = ()
    """What a schema may refer to besides itself: texts by their URIs, in the order of these."""

    @property
    def json(self) -> bool:
        """A JSON value is asked for."""
        return self.kind in ("json_schema", "json_object")


@dataclass(frozen=True, slots=True)
class Piece:
    """What has arrived of an answer since its last piece."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class End:
    """An answer has ended; `truncated` where it ended because it was full."""

    choice: int
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """The verdict on one answer of a stream; `early` where it had not ended."""

    choice: int
    verdict: Verdict
    early: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """Records of an answer of a stream, from the first on, that are whole and accepted: how many there are now.

    The last of them ends `end` characters (code points) from the beginning of the answer.
    """

    choice: int
    count: int
    end: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `truncated` where it ended because it was full."""

    text: str
    truncated: bool = False
