"""The rule that an answer matches a regular expression as a whole, or has a match in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import field_validator, model_validator

from services.validator.expression import Expression, compiled, found
from services.validator.rules.rule import Form, Rule, RuleSettings
from services.validator.verdict import Constraint, Finding, FindingKind
from spillway.errors import RequestInvalid

INLINE_CHARS = 16 * 2**10


class RegexSettings(RuleSettings):
    """One of the two, in the dialect of JSON Schema's patterns, without look-around and back-references."""

    kind: Literal["regex"]
    match: str | None = None
    """The whole answer matches it."""
    contain: str | None = None
    """Something in the answer matches it."""

    @field_validator("match")
    @classmethod
    def _matches_whole(cls, text: str | None) -> str | None:
        return text if text is None else checked(text, compiled)

    @field_validator("contain")
    @classmethod
    def _is_found(cls, text: str | None) -> str | None:
        return text if text is None else checked(text, found)

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if (self.match is None) == (self.contain is None):
            raise ValueError("give `match` or `contain`, one of them")
        return self


def checked(text: str, compile: Callable[[str], Expression] = found) -> str:
    """Return `text`. Raises ValueError unless it is an expression that is matched in linear time."""
    if not text:
        raise ValueError("is empty")
    try:
        compile(text)
    except RequestInvalid as error:
        raise ValueError(error.fields[0].description) from None
    return text


@dataclass(frozen=True, slots=True)
class Containing:
    """Something in the answer matches `pattern`."""

    pattern: str
    inline_chars: int = INLINE_CHARS

    @property
    def description(self) -> str:
        return f"Something in the answer must match this regular expression: {self.pattern}"

    def findings(self, text: str) -> Sequence[Finding]:
        if found(self.pattern).matches(text):
            return ()
        return (Finding(FindingKind.REGEX, f"nothing in the answer matches the regular expression {self.pattern}"),)


def regex_rule(settings: RegexSettings) -> Form | Rule:
    """Return the rule of `settings`."""
    if settings.match is None:
        return Containing(settings.contain or "")
    said = f"The whole answer must match this regular expression: {settings.match}"
    return Form(said, Constraint("regex", settings.match))
