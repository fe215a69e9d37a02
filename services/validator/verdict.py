"""What is asked of an answer, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal


class Decision(Enum):
    """What is to be done with an answer, from best to worst."""

    ACCEPT = "accept"
    REPAIR = "repair"
    RETRY = "retry"
    REJECT = "reject"


class FindingKind(Enum):
    """What was found wrong."""

    JSON_MISSING = "json_missing"
    JSON_MALFORMED = "json_malformed"
    SCHEMA = "schema"
    CHOICE = "choice"
    REGEX = "regex"
    TRUNCATED = "truncated"
    REPAIRED = "repaired"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `path` points into the answer's JSON, `schema_path` into the schema."""

    kind: FindingKind
    message: str
    path: str = ""
    schema_path: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one answer; `accepted_json` is empty unless a JSON value was asked for and found."""

    decision: Decision
    findings: tuple[Finding, ...] = ()
    accepted_json: str = ""
    instruction: str = ""
    """What to tell the model for another attempt."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer has to be. `text` is the schema or the expression."""

    kind: Literal["json_schema", "json_object", "regex", "choices"]
    text: str = ""
    choices: tuple[str, ...] = ()
    repair: bool = True
    """Broken JSON may be mended."""
    schemas: tuple[tuple[str, str], ...] = ()
    """What a schema may refer to besides itself: texts by their URIs, in the order of these."""


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
